"""The page of a run: what it says, and that a browser shows it."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fixtures.chromium import open_page
from fixtures.pages import HOSTILE, candidate, matrix, result

from matar_tf.errors import SearchError
from matar_tf.figures import figure_of
from matar_tf.reporting import (
    Asked,
    matrix_to_markdown,
    to_html,
    to_markdown,
)
from matar_tf.reporting.cards import cards_of, savings
from matar_tf.reporting.readable import readable_column, term_of
from matar_tf.reporting.tables import table_of

VOID = {"meta", "br"}


def test_what_stays_in_float_is_listed_with_its_reason() -> None:
    floats = replace(matrix("npu"), float_layers={"lstm": HOSTILE, "table": ""})
    page = Page(to_html([result()], floats))
    assert page.counts["ul"] == 2
    assert "Stays in float" not in to_html([result()], matrix("npu"))


class Page(HTMLParser):
    """Collects tables and links; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.links: list[str] = []
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        values = dict(attrs)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)
        if tag == "a":
            self.links.append(values["href"])
        if "svg" not in self.open:
            self.ids += [values["id"]] if "id" in values else []
        self.sources += [values[key] for key in ("src", "xlink:href") if key in values]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def text() -> str:
    return to_html(
        [result("npu"), result("dsp")], matrix("npu", "dsp"), {"accuracy": 0.92}
    )


class TestPage:
    def test_says_what_the_tables_say(self, text: str) -> None:
        rows = Page(text).rows
        assert rows[0][:2] == ["policy", "accuracy [%]"]
        # Wilson's centre is (0.9 + 0.0192) / 1.0384, half the width 5.96 points.
        (front,) = {tuple(one) for one in rows if one[0].startswith("policy_01 ")}
        assert front[1:] == ("90.00 (82.56..94.48)", "2", "4.0")
        (wide,) = {tuple(one) for one in rows if one[0] == "w8a8"}
        assert wide[2:] == ("3", "8.0")
        (floating,) = {tuple(one) for one in rows if one[0] == "float"}
        assert floating[1:] == ("92.00", "-", "-")
        assert rows.count(["policy_00", "2", "8"]) == 2  # bits, for either target
        assert ["npu/policy_00", "1", "not allowed"] in rows

    def test_versions_are_those_of_tools(self, text: str) -> None:
        assert "matar_tf 0.1" in text
        assert "modelled, not validated" in text
        assert "of nothing" not in text

    def test_links_lead_to_files_and_sections(self, text: str) -> None:
        page = Page(text)
        rows = [f"{one}/policy_0{i}" for one in ("npu", "dsp") for i in range(2)]
        assert [one for one in page.ids if "/" not in one] == [
            *("target-npu", "target-dsp", "matrix", "provenance")
        ]
        assert [one for one in page.ids if "/" in one] == rows
        inside = {link[1:] for link in page.links if link.startswith("#")}
        assert inside == {*page.ids} - {"npu/policy_00", "dsp/policy_00"}  # no answers
        assert [link for link in page.links if not link.startswith("#")] == [
            f"{target}/policy_0{index}.{suffix}"
            for target in ("npu", "dsp")
            for index in range(2)
            for suffix in ("tflite", "json")
        ]

    def test_needs_nothing_else(self, text: str) -> None:
        page = Page(text)
        assert not {"link", "img", "iframe"} & set(page.counts)
        assert page.counts["script"] == 1
        assert all(source.startswith("#") for source in page.sources)
        assert page.counts["svg"] == 4  # front and history, twice

    def test_runs_its_own_script_alone(self, text: str) -> None:
        (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        (policy,) = re.findall('Content-Security-Policy" content="(.*?)"', text)
        assert policy.startswith("default-src 'none'; ")
        assert f"; script-src 'sha256-{digest}'; " in policy
        assert script.isascii()  # as it stands when the page is made anew

    def test_escapes_what_it_is_given(self, text: str) -> None:
        assert "<script>alert" not in text
        assert "&lt;script&gt;" in text

    def test_equal_results_give_equal_pages(self, text: str) -> None:
        results = [result("npu"), result("dsp")]
        assert to_html(results, matrix("npu", "dsp"), {"accuracy": 0.92}) == text
        assert to_html(results, matrix("npu", "dsp")) != text

    def test_a_search_of_one_generation_has_no_history(self) -> None:
        one = replace(result(), history=result().history[:1])
        assert Page(to_html([one], matrix("npu"))).counts["svg"] == 1

    def test_targets_that_failed_are_named_with_the_reason(self, text: str) -> None:
        failures = {"slow": "Expected <b>less</b> than 3 & got 4."}
        whole = to_html([result("npu")], matrix("npu"), None, failures)
        page = Page(whole)
        assert [one for one in page.ids if "/" not in one] == [
            *("target-npu", "failures", "matrix", "provenance")
        ]
        assert page.links.count("#failures") == 1
        line = "<li>slow: Expected &lt;b&gt;less&lt;/b&gt; than 3 &amp; got 4.</li>"
        assert whole.count(line) == 1
        assert "without a front" not in text
        table = matrix_to_markdown(matrix("npu"), failures)
        title = "## Targets without a front"
        line = r"- slow: Expected \<b>less\</b> than 3 & got 4."
        assert table.endswith(f"\n{title}\n\n{line}\n")
        assert title not in matrix_to_markdown(matrix("npu"))

    def test_notes_stand_on_top(self, text: str) -> None:
        whole = to_html([result("npu")], matrix("npu"), notes=["a < b"])
        assert whole.index("<p>a &lt; b</p>") < whole.index("</header>")
        assert "a &lt; b" not in text

    def test_no_results(self) -> None:
        with pytest.raises(SearchError, match="at least one result"):
            to_html([], matrix("npu"))

    @pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
    def test_a_browser_shows_it(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "report.html").write_text(text)
        shot = f"--screenshot={tmp_path / 'shown.png'}"
        open_page(tmp_path / "report.html", tmp_path, "--window-size=1200,900", shot)
        assert (tmp_path / "shown.png").stat().st_size > 20_000  # an empty one: 5 kB


class TestOrder:
    """What is decided on comes first, what proves it last."""

    def test_names_then_verdicts_then_tables_then_digests(self) -> None:
        asked = Asked(network="<net>", data="my.npz", limits=("latency_ms <= 3.0",))
        page = to_html([result()], matrix("npu"), asked=asked)
        order = ["&lt;net&gt;</h1>", "my.npz, 100 samples", 'class="verdict"']
        order += ["<nav>", '<table class="front">', 'id="matrix"', "abcdef"]
        places = [page.index(text) for text in order]
        assert places == sorted(places)
        assert [page.count(text) for text in order] == [1] * len(order)
        assert "<dd>more accuracy, less latency</dd>" in page
        assert "<dd>latency_ms &lt;= 3.0</dd>" in page
        assert "<dd>1 point of accuracy</dd>" in page

    def test_who_is_not_told_the_name_says_so_by_none(self, text: str) -> None:
        assert "<title>Retargeting report</title>" in text
        assert "<h1>Retargeting report</h1>" in text

    def test_cards_say_what_is_saved_against_8_bits(self) -> None:
        one = result()
        (best, within) = cards_of(one, table_of(one))
        assert (best.title, best.policy) == ("Most accurate", "policy_01")
        # 2 of 3 ms, 4 of 8 KiB, 90 of 91 %.
        assert best.saving == (
            "Against w8a8: 33 % less latency, 50 % smaller weights; "
            "1.00 points less accuracy."
        )
        assert [(fact.text, fact.kind) for fact in best.facts] == [
            ("90.00 % (82.56..94.48)", "measured"),
            ("2 ms", "modelled, not validated"),
            ("4.0 KiB", "stored bytes"),
        ]
        assert within.policy == "policy_01"
        assert within.title.startswith("None is likely within 1 point of w8a8")

    def test_the_smallest_has_a_card_unless_it_is_the_fastest(self) -> None:
        """Both lose nothing that shows, so that each is within a point for certain."""
        w8a8 = replace(result().references[0], metrics=known(0.9))
        quick = replace(candidate("policy_00", 8, 0.9, 1.0), metrics=known(0.9))
        small = replace(candidate("policy_01", 4, 0.9, 2.0), metrics=known(0.9001))
        one = replace(result(), front=(quick, small), references=(w8a8,))
        titles = {card.title: card for card in cards_of(one, table_of(one))}
        assert titles["Fastest within 1 point of w8a8"].policy == "policy_00"
        assert titles["Smallest within 1 point of w8a8"].policy == "policy_01"
        both = replace(
            one,
            front=(
                replace(
                    quick,
                    policy=small.policy,
                    costs={"latency_ms": 1.0, "weight_bytes": 1024.0},
                ),
                small,
            ),
        )
        titles = {card.title: card for card in cards_of(both, table_of(both))}
        both_title = "Fastest and smallest within 1 point of w8a8"
        assert titles[both_title].policy == "policy_00"
        assert len(titles) == 2

    def test_savings_without_8_bits_or_of_them(self) -> None:
        bare = replace(result(), references=())
        assert [card.saving for card in cards_of(bare, table_of(bare))] == ["", ""]
        (w8a8,) = result().references
        assert savings(w8a8, w8a8, result()) == "The same policy as w8a8."
        dearer = replace(candidate("x", 4, 0.91, 3.0), costs={"latency_ms": 3.3})
        assert savings(dearer, w8a8, result()) == (
            "Against w8a8: 10 % more latency; the same accuracy."
        )


def known(accuracy: float) -> dict[str, float]:
    """Returns an accuracy with bounds that leave nothing open."""
    ends = {"accuracy_low": accuracy - 1e-4, "accuracy_high": accuracy + 1e-4}
    return {"accuracy": accuracy, **ends}


class TestColours:
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_texts_stand_out(self, text: str, theme: str) -> None:
        """At least 4.5, as WCAG 2.2 asks in 1.4.3."""
        colours = palette(text, theme)
        pairs = [
            (ink, ground)
            for ink in ("ink", "soft", "link", "reference")
            for ground in ("paper", "stripe")
        ]
        pairs += [("ink", "marked"), ("link", "marked")]
        pairs += [("on-few", f"b{bits}") for bits in range(2, 6)]
        pairs += [("on-many", f"b{bits}") for bits in range(6, 9)]
        pairs += [(f"plot-{one}", "paper") for one in ("front", "reference", "float")]
        found = {pair: contrast(*(colours[one] for one in pair)) for pair in pairs}
        assert {pair: one for pair, one in found.items() if one < 4.5} == {}

    def test_contrast_is_that_of_the_standard(self) -> None:
        assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
        assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)

    def test_plots_are_in_those_of_the_page(self, text: str) -> None:
        drawn = "".join(re.findall("<figure.*?</figure>", text, re.DOTALL))
        tags = "".join(re.findall("<[^>]*>", drawn))
        assert "var(--plot-front)" in tags
        assert not re.search("#[0-9a-f]{6}", tags)
        named = replace(result().references[0], name="#1c5d99")
        page = to_html([replace(result(), references=(named,))], matrix("npu"))
        assert "<title>#1c5d99: accuracy" in page


def palette(page: str, theme: str) -> dict[str, str]:
    """Returns the colours of a page by name; in the dark, of those that change."""
    light, dark = page.split("prefers-color-scheme: dark", 1)
    part = light if theme == "light" else dark
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", part))


def contrast(first: str, second: str) -> float:
    """Returns the ratio of relative luminances, as WCAG 2.2 defines both."""
    shades = []
    for colour in (first, second):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [
            one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4
            for one in parts
        ]
        weighted = zip((0.2126, 0.7152, 0.0722), linear, strict=True)
        shades.append(sum(weight * one for weight, one in weighted))
    return (max(shades) + 0.05) / (min(shades) + 0.05)


class TestUnits:
    @pytest.mark.parametrize(
        ("name", "values", "texts", "unit"),
        [
            ("latency_ms", [0.00415, 0.03], ["4.15", "30"], "µs"),
            ("latency_ms", [0.9, 2.0, 3000.0], ["0.9", "2", "3000"], "ms"),
            ("latency_ms", [2500.0], ["2.5"], "s"),
            ("file_bytes", [94640, None], ["92.4"], "KiB"),
            ("file_bytes", [3 * 2**20, 5 * 2**19], ["3.00", "2.50"], "MiB"),
            ("weight_bytes", [100.0], ["100"], "B"),
            ("energy_pj", [2.5e9], ["2.5"], "mJ"),
            ("latency_ms", [0.001, 25.0, 0.002], ["1.0", "25,000.0", "2.0"], "µs"),
            ("macs", [2e6], ["2.000"], "million"),
            ("cycles", [2e6], ["2,000,000"], ""),
            ("latency_ms", [0.0, None], ["0"], "ms"),
        ],
    )
    def test_of_a_column_suit_its_values(
        self, name: str, values: list[float | None], texts: list[str], unit: str
    ) -> None:
        column = readable_column(figure_of(name), values)
        assert [column.text(one) for one in values if one is not None] == texts
        assert column.unit == unit

    def test_tables_of_the_page_have_them_and_files_do_not(self) -> None:
        quick = candidate("policy_00", 2, 0.7, 0.00415)
        one = replace(result(), front=(quick,))
        page = to_html([one], matrix("npu"))
        assert Page(page).rows[0][:3] == ["policy", "accuracy [%]", "latency [µs]"]
        assert "<td>4.15</td>" in page
        assert "0.00415" in to_markdown(one)

    def test_terms_say_what_is_meant_and_its_kind(self) -> None:
        assert term_of(figure_of("latency_ms")).endswith("for one sample; modelled")
        assert "among the 5 likeliest" in term_of(figure_of("top_5_accuracy"))
        assert term_of(figure_of("mine")) == "mine: unknown"
