"""Plots of a search result, as SVG: the front, and how the search came to it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from matar_tf.errors import SearchError
from matar_tf.figures import Figure, figure_of
from matar_tf.reporting.intervals import interval_of, is_predicted
from matar_tf.results import Candidate, Objective, SearchResult

__all__ = ["front_svg", "history_svg"]

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
_FRONT_COLOR: Final = "#1c5d99"
_REFERENCE_COLOR: Final = "#b3541e"
_FLOAT_COLOR: Final = "#555555"


def front_svg(
    result: SearchResult, float_metrics: Mapping[str, float] | None = None
) -> str:
    """Returns a panel for each metric and cost among the objectives.

    The line is what the front reaches at a cost; bars are 95 % intervals of accuracies.

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

    def draw(axes: Sequence[Any]) -> None:
        panels = [(metric, cost) for metric in metrics for cost in costs]
        for panel, (metric, cost) in zip(axes, panels, strict=True):
            _draw_front(panel, result, metric, cost)
            level = (float_metrics or {}).get(metric.name)
            if level is not None:
                panel.axhline(
                    level * figure_of(metric.name).scale,
                    color=_FLOAT_COLOR,
                    linestyle="--",
                    linewidth=1.0,
                    label="float network",
                )
            panel.legend(loc="best", frameon=False)

    return _svg(len(metrics) * len(costs), draw)


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
        for panel, values, title in zip(
            axes,
            (shares, best),
            ("hypervolume of the front", f"best {metric.title}"),
            strict=True,
        ):
            panel.plot(known, values, color=_FRONT_COLOR, marker=".")
            panel.set_xlabel("policies, evaluated or reused")
            panel.set_ylabel(title)

    return _svg(2, draw)


def _draw_front(
    panel: Any, result: SearchResult, metric: Objective, cost: Objective
) -> None:
    columns = figure_of(metric.name), figure_of(cost.name)
    points = _points(result.front, metric, cost, columns)
    line = _best_so_far(points, metric)
    panel.step(*zip(*line, strict=True), where="post", color=_FRONT_COLOR, alpha=0.6)
    bars = panel.errorbar(
        *zip(*points, strict=True),
        yerr=_error_bars(result, metric, columns[0]),
        fmt="o",
        color=_FRONT_COLOR,
        markersize=4.0,
        elinewidth=0.8,
        label="front",
    )
    bars.lines[0].set_gid("front")
    for lines in bars.lines[2]:
        lines.set_gid("bars")
    named = [one for one in result.references if _has(one, cost.name)]
    others = _points(named, metric, cost, columns)
    if others:
        panel.plot(
            *zip(*others, strict=True),
            linestyle="none",
            marker="D",
            markersize=5.0,
            markerfacecolor="none",
            color=_REFERENCE_COLOR,
            label="references",
            gid="references",
        )
    for one, point in zip(named, others, strict=True):
        panel.annotate(
            one.name, point, xytext=(5, -10), textcoords="offset points", fontsize=8.0
        )
    panel.locator_params(axis="x", nbins=_NUM_TICKS)
    panel.margins(x=0.08)  # room for the names of references
    panel.set_xlabel(columns[1].title)
    shown = columns[0].predicted() if is_predicted(result) else columns[0]
    panel.set_ylabel(shown.title)


def _points(
    candidates: Sequence[Candidate],
    metric: Objective,
    cost: Objective,
    columns: tuple[Figure, Figure],
) -> list[tuple[float, float]]:
    """Returns cost and metric of each, in the units of their columns."""
    return [
        (one.value(cost) * columns[1].scale, one.value(metric) * columns[0].scale)
        for one in candidates
    ]


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
