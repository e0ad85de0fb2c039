"""Plots of fronts and searches: where marks stand, their names, what axes show."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from fixtures.pages import candidate, result

from matar_tf.errors import SearchError
from matar_tf.reporting import front_svg
from matar_tf.reporting.axes import axis_of
from matar_tf.reporting.plots import history_svg
from matar_tf.reporting.svg_titles import with_titles
from matar_tf.results import Objective

SVG = "{http://www.w3.org/2000/svg}"


class TestAxes:
    @pytest.mark.parametrize(
        ("front", "others", "unit", "low", "high"),
        [
            ([1.0, 2.0], [], "ms", 0.92, 2.08),
            ([1.0, 2.0], [0.5, 2.6], "ms", 0.38, 2.12),  # half the length, and more
            ([2.0], [4.0, 12.0], "ms", 1.2, 12.8),  # nothing to be squeezed
            ([2.0], [], "ms", 1.84, 2.16),
            ([0.0], [], "", -0.08, 0.08),
            ([80.0, 100.0], [], "%", 78.4, 100.0),
            ([0.5, 10.5], [], "%", 0.0, 11.3),
        ],
    )
    def test_are_scaled_to_the_front(
        self,
        front: list[float],
        others: list[float],
        unit: str,
        low: float,
        high: float,
    ) -> None:
        axis = axis_of(front, others, unit)
        assert (axis.low, axis.high) == pytest.approx((low, high))
        ends = (low - 1, front[0], high + 1)
        assert [axis.side_of(one) for one in ends] == [-1, 0, 1]
        assert axis.nearest(high + 1) == axis.high


class TestPlots:
    def test_every_point_is_drawn_where_it_belongs(self) -> None:
        near = candidate("w8a8", 8, 0.91, 2.5)
        drawn = front_svg(replace(result(), references=(near,)))
        points = positions(drawn, "front")
        assert len(points) == 2
        (x0, y0), (x1, y1) = points
        ((x2, y2),) = positions(drawn, "references")
        # Latencies 1, 2, 2.5; accuracies 70, 90, 91: up is a smaller y.
        assert x1 - x0 == pytest.approx(2 * (x2 - x1), abs=0.01)
        assert y0 - y1 == pytest.approx(20 * (y1 - y2), abs=0.02)

    def test_bars_reach_from_bound_to_bound(self) -> None:
        """Wilson's 1.0 of 100 is 96.30..100: nothing above, 3.7 points below."""
        w8a8 = candidate("w8a8", 8, 0.95, 3.0)
        front = (candidate("policy_00", 8, 1.0, 1.0),)
        one = replace(result(), front=front, references=(w8a8,))
        ((_, y1),) = positions(front_svg(one), "front")
        ((_, y2),) = positions(front_svg(one), "references")  # 95 %
        ends = bar_ends(front_svg(one))
        assert min(ends) == pytest.approx(y1, abs=0.01)
        share = (max(ends) - y1) / (y2 - y1)
        assert share == pytest.approx(3.6994 / 5.0, abs=2e-4)

    def test_what_is_far_from_the_front_is_an_arrow_at_the_edge(self) -> None:
        """1 and 2 ms, 61 to 95 %: from 0.5 to 2.5 ms and above 44 % is near."""
        far = (candidate("slow", 8, 0.91, 30.0), candidate("bad", 2, 0.2, 1.5))
        drawn = front_svg(replace(result(), references=far))
        assert 'id="references"' not in drawn
        assert "slow: 30, 91" in drawn
        assert "bad: 1.5, 20" in drawn
        front = positions(drawn, "front")
        (x1, y1), (x2, y2) = (marks[0] for marks in all_positions(drawn, "beyond"))
        assert x1 > front[1][0]
        assert x1 - front[1][0] < 0.1 * (front[1][0] - front[0][0])
        assert y1 == pytest.approx(
            front[1][1] - (front[0][1] - front[1][1]) / 20, abs=0.02
        )
        assert x2 == pytest.approx((front[0][0] + front[1][0]) / 2, abs=0.01)
        assert y2 > front[0][1]
        without = positions(front_svg(replace(result(), references=())), "front")
        for here, there in zip(front, without, strict=True):
            assert here == pytest.approx(there, abs=5.0)  # room for labels differs

    def test_markers_have_the_names_of_policies(self) -> None:
        named = replace(result().references[0], name="<b> & w8a8")
        drawn = front_svg(replace(result(), references=(named,)))
        titles = [
            node.text for node in ElementTree.fromstring(drawn).iter(f"{SVG}title")
        ]
        assert sorted(map(str, titles), reverse=True) == [
            "policy_01: accuracy 90.00 % (82.56..94.48), latency 2 ms",
            "policy_00: accuracy 70.00 % (60.42..78.11), latency 1 ms",
            "<b> & w8a8: accuracy 91.00 % (83.77..95.19), latency 3 ms",
        ]

    def test_titles_are_as_many_as_markers(self) -> None:
        with pytest.raises(SearchError, match="each of 2 markers of 'front', got 1"):
            with_titles(front_svg(result()), "front", ["one"])

    def test_the_float_network_far_off_is_told(self) -> None:
        drawn = front_svg(result(), {"accuracy": 0.1})
        assert "float network, beyond: 10" in drawn

    def test_the_float_network_is_a_line(self) -> None:
        assert "float network" in front_svg(result(), {"accuracy": 0.92})
        assert "float network" not in front_svg(result(), {"loss": 0.1})
        assert "float network" not in front_svg(result())

    def test_a_panel_for_each_metric_and_cost(self) -> None:
        three = (*result().objectives, Objective(name="weight_bytes"))
        drawn = front_svg(replace(result(), objectives=three))
        assert "latency [ms]" in drawn
        assert "weights [KiB]" in drawn
        assert "weights [KiB]" not in front_svg(result())

    def test_references_without_the_cost_are_left_out(self) -> None:
        one = result().references[0]
        unpriced = replace(one, costs={**one.costs, "latency_ms": None})
        assert "w8a8" in front_svg(result())
        assert "w8a8" not in front_svg(replace(result(), references=(unpriced,)))

    def test_names_are_no_formulas(self) -> None:
        one = replace(result().references[0], name="$<b>_{x}$")
        drawn = front_svg(replace(result(), references=(one,)))
        assert any(
            node.text == "$<b>_{x}$: 3, 91"
            for node in ElementTree.fromstring(drawn).iter()
        )

    def test_the_history_ends_at_all_that_is_known(self) -> None:
        drawn = history_svg(result())
        assert "best accuracy [%]" in drawn
        assert not re.search(">10[1-9]<", drawn)
        perfect = replace(result().history[2], best_metric=1.0)
        whole = history_svg(replace(result(), history=(*result().history[:2], perfect)))
        ticks = [float(one) for one in re.findall(r">([0-9.]+)</text>", whole)]
        assert max(ticks) == 100.0
        assert drawn != history_svg(replace(result(), history=result().history[:2]))


def positions(svg: str, role: str) -> list[tuple[float, float]]:
    """Returns where the markers of a role were put, in the units of the file."""
    (found,) = all_positions(svg, role)
    return found


def all_positions(svg: str, role: str) -> list[list[tuple[float, float]]]:
    """Returns the same of all groups of a role."""
    return [
        [
            (float(node.get("x", "nan")), float(node.get("y", "nan")))
            for node in group.iter(f"{SVG}use")
        ]
        for group in ElementTree.fromstring(svg).iter(f"{SVG}g")
        if group.get("id") == role
    ]


def bar_ends(svg: str) -> list[float]:
    """Returns the ends of the first bar, in the units of the file."""
    root = ElementTree.fromstring(svg)
    (group,) = [node for node in root.iter(f"{SVG}g") if node.get("id") == "bars"]
    (path,) = list(group.iter(f"{SVG}path"))[:1]
    return [float(text.split()[1]) for text in re.split("[ML]", path.get("d", ""))[1:]]
