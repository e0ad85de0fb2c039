"""Plots of a search result, as SVG: the front, and how the search came to it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from matar_tf.errors import SearchError
from matar_tf.figures import Figure, figure_of
from matar_tf.reporting.axes import Axis, axis_of
from matar_tf.reporting.intervals import interval_of, is_predicted
from matar_tf.reporting.readable import readable_column
from matar_tf.reporting.svg_titles import with_titles
from matar_tf.results import Candidate, Objective, SearchResult

__all__ = ["COLORS", "front_svg", "history_svg"]

_PANEL_INCHES: Final = 5.5, 3.6
_NUM_TICKS: Final = 5  # at most, of an axis of costs: latencies have many digits
# Names come from files: no "$" of theirs is a formula. The salt makes ids of elements,
# which are random otherwise, a function of what is drawn.
_STYLE: Final[Mapping[str, Any]] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9.0,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",
    "svg.hashsalt": "matar_tf",
    "text.parse_math": False,
}
# Blue and orange, which the colour-blind tell apart; marks differ in shape, too.
COLORS: Final[Mapping[str, str]] = {
    "front": "#1c5d99",
    "bar": "#9dbcd9",
    "reference": "#b3541e",
    "float": "#555555",
}
# Of what lies beyond an axis: left or right of it, or else below or above.
_ARROWS: Final = {
    (side, other): "<>"[side > 0] if side else "v^"[other > 0]
    for side in (-1, 0, 1)
    for other in (-1, 0, 1)
}


def front_svg(
    result: SearchResult, float_metrics: Mapping[str, float] | None = None
) -> str:
    """Returns a panel for each metric and cost among the objectives.

    The line is what the front reaches at a cost; bars are 95 % intervals of accuracies.
    Axes are scaled to the front: a reference far from it is an arrow at the edge with
    its figures. Who points at a policy is told its name and figures.

    Args:
      result: The result.
      float_metrics: What the float network reaches, drawn as a line if it is known.

    Raises:
      SearchError: If the front is empty, or the objectives are not both kinds.
    """
    measured = tuple(result.front[0].metrics) if result.front else ()
    metrics = [one for one in result.objectives if one.name in measured]
    costs = [one for one in result.objectives if one.name not in measured]
    if not metrics or not costs:
        raise SearchError(
            "Expected a policy, and a metric and a cost as objectives, for the plot of "
            f"the front on {result.target!r}, got {len(result.front)} policies and "
            f"the objectives {[one.name for one in result.objectives]}; print a table."
        )

    panels = [
        _panel(result, metric, cost, float_metrics)
        for metric in metrics
        for cost in costs
    ]

    def draw(axes: Sequence[Any]) -> None:
        for one, panel in zip(axes, panels, strict=True):
            _draw_front(one, panel)

    svg = _svg(len(panels), draw)
    for group in ("front", "references", "beyond"):
        svg = with_titles(
            svg, group, [mark.title for panel in panels for mark in panel.marks[group]]
        )
    return svg


def history_svg(result: SearchResult) -> str:
    """Returns the hypervolume and the best metric over the policies that were known."""
    known = [row.num_evaluated + row.num_reused for row in result.history]
    metric = figure_of(
        next(
            one.name for one in result.objectives if one.name in result.front[0].metrics
        )
    )
    best = [row.best_metric * metric.scale for row in result.history]
    shares = [row.hypervolume for row in result.history]

    def draw(axes: Sequence[Any]) -> None:
        for panel, values, title, unit in zip(
            axes,
            (shares, best),
            ("hypervolume of the front", f"best {metric.title}"),
            ("", metric.unit),
            strict=True,
        ):
            panel.plot(known, values, color=COLORS["front"], marker=".", clip_on=False)
            axis = axis_of(values, unit=unit)
            panel.set_ylim(axis.low, axis.high)
            panel.set_xlabel("policies, evaluated or reused")
            panel.set_ylabel(title)

    return _svg(2, draw)


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """A policy in a panel.

    Attributes:
      x: Its cost, in the unit of the axis.
      y: Its metric, likewise.
      name: Its name.
      title: Its name and figures.
    """

    x: float
    y: float
    name: str
    title: str


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """A metric over a cost, in the units of its axes.

    Attributes:
      metric: The objective.
      titles: Of both axes.
      axes: Both, cost first.
      marks: ``front``, ``references`` on the axes and those ``beyond`` them.
      bars: How far intervals reach down and up; None without.
      level: Metric of the float network; None if it is not known.
    """

    metric: Objective
    titles: tuple[str, str]
    axes: tuple[Axis, Axis]
    marks: Mapping[str, Sequence[_Mark]]
    bars: tuple[list[float], list[float]] | None
    level: float | None


def _panel(
    result: SearchResult,
    metric: Objective,
    cost: Objective,
    float_metrics: Mapping[str, float] | None,
) -> _Panel:
    x = readable_column(figure_of(cost.name), [one.value(cost) for one in result.front])
    y = figure_of(metric.name, result.heads)
    number = result.provenance.num_samples

    def mark(one: Candidate) -> _Mark:
        ends = interval_of(one.metrics, y, number)
        interval = "" if ends is None else f" ({'..'.join(map(y.text, ends))})"
        size = one.costs.get("file_bytes")
        file = figure_of("file_bytes")
        parts = [
            f"{y.header} {y.text(one.value(metric))} {y.unit}".rstrip() + interval,
            f"{x.header} {x.text(one.value(cost))} {x.unit}".rstrip(),
            *([] if size is None else [f"file {file.text(size)} {file.unit}"]),
        ]
        return _Mark(
            x=one.value(cost) * x.scale,
            y=one.value(metric) * y.scale,
            name=one.name,
            title=f"{one.name}: {', '.join(parts)}",
        )

    front = [*map(mark, result.front)]
    references = [mark(one) for one in result.references if _has(one, cost.name)]
    bars = _error_bars(result, metric, y)
    below, above = bars or ([0.0] * len(front), [0.0] * len(front))
    ends = [one.y - down for one, down in zip(front, below, strict=True)]
    ends += [one.y + up for one, up in zip(front, above, strict=True)]
    level = (float_metrics or {}).get(metric.name)
    level = None if level is None else level * y.scale
    others = [one.y for one in references] + ([] if level is None else [level])
    axes = (
        axis_of([one.x for one in front], [one.x for one in references], x.unit),
        axis_of(ends, others, y.unit),
    )
    shown = y.predicted() if is_predicted(result) else y
    return _Panel(
        metric=metric,
        titles=(x.title, shown.title),
        axes=axes,
        marks={
            "front": front,
            "references": [one for one in references if not any(_sides(axes, one))],
            "beyond": [one for one in references if any(_sides(axes, one))],
        },
        bars=bars,
        level=level,
    )


def _sides(axes: tuple[Axis, Axis], mark: _Mark) -> tuple[int, int]:
    return axes[0].side_of(mark.x), axes[1].side_of(mark.y)


def _draw_front(axes: Any, panel: _Panel) -> None:
    points = [(one.x, one.y) for one in panel.marks["front"]]
    line = _best_so_far(points, panel.metric)
    axes.step(*zip(*line, strict=True), where="post", color=COLORS["front"], alpha=0.6)
    bars = axes.errorbar(
        *zip(*points, strict=True),
        yerr=panel.bars,
        fmt="o",
        color=COLORS["front"],
        ecolor=COLORS["bar"],
        markersize=4.5,
        elinewidth=0.8,
        label="front",
        clip_on=False,
    )
    bars.lines[0].set_gid("front")
    for lines in bars.lines[2]:
        lines.set_gid("bars")
    if panel.marks["references"]:
        axes.plot(
            [one.x for one in panel.marks["references"]],
            [one.y for one in panel.marks["references"]],
            linestyle="none",
            marker="D",
            markersize=5.0,
            markerfacecolor="none",
            color=COLORS["reference"],
            label="references",
            gid="references",
            clip_on=False,
        )
        for one in panel.marks["references"]:
            _name(axes, panel, one, one.name)
    for index, one in enumerate(panel.marks["beyond"]):
        axes.plot(
            [panel.axes[0].nearest(one.x)],
            [panel.axes[1].nearest(one.y)],
            linestyle="none",
            marker=_ARROWS[_sides(panel.axes, one)],
            markersize=6.0,
            color=COLORS["reference"],
            label="" if index else "references beyond the edge",
            gid="beyond",
            clip_on=False,
        )
        _name(axes, panel, one, f"{one.name}: {one.x:.4g}, {one.y:.4g}")
    if panel.level is not None:
        _draw_level(axes, panel.axes[1], panel.level)
    axes.set_xlim(panel.axes[0].low, panel.axes[0].high)
    axes.set_ylim(panel.axes[1].low, panel.axes[1].high)
    axes.locator_params(axis="x", nbins=_NUM_TICKS)
    axes.set_xlabel(panel.titles[0])
    axes.set_ylabel(panel.titles[1])
    axes.legend(loc="best", frameon=False)


def _name(axes: Any, panel: _Panel, mark: _Mark, text: str) -> None:
    """Writes beside a mark, on the side that has room."""
    horizontal, vertical = panel.axes
    x, y = horizontal.nearest(mark.x), vertical.nearest(mark.y)
    is_high = 2.0 * y > vertical.low + vertical.high
    is_right = 2.0 * x > horizontal.low + horizontal.high
    axes.annotate(
        text,
        (x, y),
        xytext=(-6 if is_right else 6, -11 if is_high else 5),
        textcoords="offset points",
        horizontalalignment="right" if is_right else "left",
        fontsize=8.0,
    )


def _draw_level(axes: Any, vertical: Axis, level: float) -> None:
    """Draws what the float network reaches; says it where that is off the axis."""
    is_off = vertical.side_of(level) != 0
    axes.axhline(
        vertical.nearest(level),
        color=COLORS["float"],
        linestyle=":" if is_off else "--",
        linewidth=1.0,
        label=f"float network, beyond: {level:.4g}" if is_off else "float network",
    )


def _best_so_far(
    points: Sequence[tuple[float, float]], metric: Objective
) -> list[tuple[float, float]]:
    """Returns what is better than all that is cheaper, the cheapest first.

    Of a front of two objectives that is every point; with more, some lie off it.
    """
    line: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not line or metric.to_minimized(y) < metric.to_minimized(line[-1][1]):
            line.append((x, y))
    return line


def _has(candidate: Candidate, name: str) -> bool:
    return candidate.costs.get(name) is not None


def _error_bars(
    result: SearchResult, metric: Objective, column: Figure
) -> tuple[list[float], list[float]] | None:
    """Returns how far each interval of the front reaches down and up from its value.

    None if one has none.
    """
    number = result.provenance.num_samples
    below: list[float] = []
    above: list[float] = []
    for one in result.front:
        value, bounds = one.value(metric), interval_of(one.metrics, column, number)
        if bounds is None:
            return None
        below.append((value - bounds[0]) * column.scale)
        above.append((bounds[1] - value) * column.scale)
    return below, above


def _svg(num_panels: int, draw: Callable[[Sequence[Any]], None]) -> str:
    # Half a second to import: only for what draws. No pyplot, which keeps figures.
    import matplotlib
    from matplotlib.figure import Figure

    with cast("Any", matplotlib).rc_context(_STYLE):
        width, height = _PANEL_INCHES
        figure: Any = Figure(figsize=(width * num_panels, height), layout="constrained")
        draw(figure.subplots(1, num_panels, squeeze=False)[0])
        buffer = io.StringIO()
        # Neither time nor version: equal results, equal files.
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
