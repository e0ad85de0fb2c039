"use strict";
// Tables sort, filter and hide columns; without this script they stand as they are.
const number = cell => parseFloat(cell.textContent.replaceAll(",", ""));
const make = (tag, parent, values) => parent.appendChild(
  Object.assign(document.createElement(tag), values));
for (const table of document.querySelectorAll("table.front")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const names = heads.map(head => head.textContent.trim());
  const tools = document.createElement("div");
  tools.className = "tools";
  table.parentNode.before(tools);
  const label = make("label", tools, { textContent: "Filter rows: " });
  const filter = make("input", label, { type: "search", placeholder: "latency < 2" });
  const menu = make("details", tools, {});
  make("summary", menu, { textContent: "Columns" });
  filter.addEventListener("input", () => {
    const [, name, sign, bound] = /^(.+?)\s*([<>])\s*([\d.]+)$/.exec(filter.value) ?? [];
    const at = names.findIndex(one => sign && one.includes(name));
    for (const row of body.rows) {
      const value = number(row.cells[Math.max(at, 0)]);
      row.hidden = at < 0 ? !row.textContent.includes(filter.value)
        : !(sign === "<" ? value < bound : value > bound);
    }
  });
  heads.forEach((head, at) => {
    const words = [...head.childNodes], button = make("button", head, {});
    button.append(...words);
    button.addEventListener("click", () => {
      const sign = head.ariaSort === "ascending" ? -1 : 1;
      heads.forEach(one => { one.ariaSort = null; });
      head.ariaSort = sign > 0 ? "ascending" : "descending";
      const order = (a, b) => at === 0 ? sign * a.textContent.localeCompare(b.textContent)
        : isNaN(number(a)) - isNaN(number(b)) || sign * (number(a) - number(b)) || 0;
      body.append(...[...body.rows].sort((a, b) => order(a.cells[at], b.cells[at])));
    });
    if (at === 0) return;
    const choice = make("label", menu, { textContent: names[at] });
    choice.prepend(Object.assign(document.createElement("input"),
      { type: "checkbox", checked: true, onchange: event => {
        for (const row of table.rows) row.cells[at].hidden = !event.target.checked;
      } }));
  });
}
