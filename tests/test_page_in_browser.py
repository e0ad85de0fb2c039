"""The page of a run as a browser lays it out: on a desk, on a phone, on paper."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.chromium import open_page
from fixtures.pages import matrix, result

from matar_tf.policy import Policy
from matar_tf.reporting import to_html
from matar_tf.results import Candidate

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="needs chromium"
)
LAYERS = [f"stage{index}_convolution" for index in range(60)]
# What a target gives at most; one value has as many digits as any.
COSTS = {
    **{"cycles": 123456789.0, "energy_pj": 1.234e9, "luts": 53200.0, "macs": 1.25e9},
    **{"bops": 8e10, "file_bytes": 94640.0, "peak_activation_bytes": 49152.0},
    **{"mean_weight_bits": 7.84, "mean_activation_bits": 8.0, "float_share": 0.123},
}
# Of each frame: its width, the width of what it shows, and both of each table's box.
MEASURE = """
frames => frames.map(one => {
  one.querySelectorAll("details").forEach(each => { each.open = true; });
  const boxes = [...one.querySelectorAll(".wide")];
  return {
    page: [one.defaultView.innerWidth, one.documentElement.scrollWidth],
    tables: boxes.map(box => [box.clientWidth, box.scrollWidth]),
    names: boxes.map(box => {
      box.scrollLeft = 1e4;
      const name = box.querySelector("tbody th").getBoundingClientRect();
      return name.left - box.getBoundingClientRect().left;
    }),
    hints: [...one.querySelectorAll(".hint")].map(hint => hint.offsetHeight > 0),
  };
})
"""


def wide(one: Candidate) -> Candidate:
    widths = {name: 2 + index % 7 for index, name in enumerate(LAYERS)}
    policy = Policy(weights=widths, activations={"input": 8})
    metrics = {**one.metrics, "loss": 0.4951, "argmax_agreement": 0.9987}
    return replace(one, policy=policy, metrics=metrics, costs={**one.costs, **COSTS})


@pytest.fixture(scope="module")
def text() -> str:
    one = result("npu")
    return to_html(
        [replace(one, front=tuple(map(wide, one.front)))],
        matrix("npu", "a_target_of_a_long_name", "mpic", "bitfusion_16x32"),
        {"accuracy": 0.92},
    )


def shown(frames: list[tuple[int, str]], script: str, folder: Path) -> Any:
    """Returns what a function says of pages, each in a frame of a width.

    Args:
      frames: Width in pixels and text of each page.
      script: A function from a list of documents to JSON.
      folder: For the files.
    """
    inner = "".join(
        f'<iframe style="width:{width}px;height:900px" srcdoc="{html.escape(text)}">'
        "</iframe>"
        for width, text in frames
    )
    outer = (
        "<!DOCTYPE html><title></title>"
        "<style>body { margin: 0; width: 2000px } iframe { border: 0 }</style>"
        f"{inner}<script>addEventListener('load', () => {{ document.title = "
        f"'=' + JSON.stringify(({script})([...document.querySelectorAll('iframe')]"
        ".map(one => one.contentDocument))); });</script>"
    )
    (folder / "frames.html").write_text(outer)
    printed = open_page(
        folder / "frames.html", folder, "--dump-dom", "--hide-scrollbars"
    )
    (found,) = re.findall("<title>=(.*?)</title>", printed)
    return json.loads(html.unescape(found))


def test_tables_fit_a_desk_and_paper_and_scroll_on_a_phone(
    text: str, tmp_path: Path
) -> None:
    """Of paper the rules are tried on the width that A4 has between its margins."""
    paper = text.replace("@media print", "@media screen")
    assert paper != text
    frames = [(1280, text), (390, text), (1047, paper)]
    desk, phone, paper = shown(frames, MEASURE, tmp_path)
    for one, width in ((desk, 1280), (phone, 390), (paper, 1047)):
        assert one["page"] == [width, width]
    assert len(desk["tables"]) == 1 + 2 + 4  # the front, its bits in two, the matrix
    for inside, needed in (*desk["tables"], *paper["tables"]):
        assert needed <= inside
    inside, needed = phone["tables"][0]
    assert needed > inside
    assert not any(phone["names"])  # which stay where they are
    assert all(phone["hints"])
    assert not any(desk["hints"] + paper["hints"])


# Who clicks on headers, types and chooses: the names of the rows that are shown then.
USE = """
([page]) => {
  const table = page.querySelector("table.front");
  const names = () => [...table.tBodies[0].rows].filter(row => !row.hidden)
    .map(row => row.cells[0].textContent.split(" ")[0]);
  const press = at => { table.querySelectorAll("thead button")[at].click();
    return names(); };
  const filter = page.querySelector(".tools input[type=search]");
  const type = text => { filter.value = text;
    filter.dispatchEvent(new page.defaultView.Event("input")); return names(); };
  const found = { before: names(), less: press(2), more: press(2),
    sorts: [...table.tHead.rows[0].cells].map(head => head.getAttribute("aria-sort")),
    by_name: press(0), little: type("latency < 2.5"),
    much: type("accuracy>90"), named: type("w8"), all: type("") };
  const box = page.querySelectorAll(".tools input[type=checkbox]")[0];
  box.click();
  found.hidden = [...table.rows].map(row => row.cells[1].offsetWidth);
  found.keys = [...page.querySelectorAll(".wide, .tools input, th button, summary")]
    .every(one => one.tabIndex === 0);
  return found;
}
"""


def test_tables_sort_filter_and_hide_columns(tmp_path: Path) -> None:
    text = to_html([result()], matrix("npu"), {"accuracy": 0.92})
    found = shown([(1280, text)], USE, tmp_path)
    front, others = ["policy_00", "policy_01"], ["float", "w8a8"]
    assert found["before"] == front + others
    assert found["less"] == [*front, "w8a8", "float"]  # 1, 2, 3 ms, and one without
    assert found["more"] == ["w8a8", "policy_01", "policy_00", "float"]
    assert found["sorts"] == [None, None, "descending", None]
    assert found["by_name"] == [*others[:1], *front, "w8a8"]
    assert found["little"] == front
    assert sorted(found["much"]) == others
    assert found["named"] == ["w8a8"]
    assert sorted(found["all"]) == sorted(front + others)
    assert not any(found["hidden"])
    assert found["keys"]


def test_without_scripts_the_tables_stand(text: str, tmp_path: Path) -> None:
    still = text.replace("script-src 'sha256-", "script-src 'sha256-0")
    count = "([page]) => page.querySelectorAll('.tools, .front tbody tr').length"
    assert shown([(1280, still)], count, tmp_path) == 4
