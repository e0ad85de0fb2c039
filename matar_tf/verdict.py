"""Which policies of a front to look at: three of them, and why.

The most accurate one, the cheapest one that loses little, and the knee, beyond which
more cost buys less.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from matar_tf.errors import SearchError
from matar_tf.figures import (
    Z95,
    Figure,
    bound_names,
    figure_of,
    is_expected,
    larger_is_better,
)
from matar_tf.policy import MAX_BITS
from matar_tf.results import Candidate, Objective, SearchResult

__all__ = [
    "BEST",
    "CHEAPEST",
    "KNEE",
    "Pick",
    "parse_want",
    "verdict_of",
]

BEST: Final = "best"
CHEAPEST: Final = "within"
KNEE: Final = "knee"
_EQUAL: Final = 5e-5  # losses that print as none
_LEAST: Final = 0.1  # of a deviation: what a difference is not known by at least
_LIKELY: Final = 0.95  # chance to be within, for which more cost is worth it
_EVEN: Final = 0.5
_PLAIN_WANTS: Final = {"most accurate": BEST, "knee": KNEE}
_WITHIN: Final = re.compile(r"(\w+) within ([0-9]{1,3}(?:\.[0-9]{1,6})?)(?: points?)?")
_COSTS: Final = {
    "fastest": "latency_ms",
    "smallest": "weight_bytes",
    "leanest": "energy_pj",
}
_SUPERLATIVES: Final = {"_ms": "fastest", "_bytes": "smallest", "_pj": "leanest"}


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A policy of a front that stands for an answer.

    Attributes:
      kind: `BEST`, `CHEAPEST` or `KNEE`.
      policy: The policy, as the front has it.
      beside: The policy that its loss is measured from; None without.
      loss: What it loses against that, in the unit of the metric.
      chance: That it loses no more than is allowed, elsewhere than on these samples;
        None where it is not known.
      sentence: The answer, in words.
    """

    kind: str
    policy: Candidate
    beside: str | None = None
    loss: float | None = None
    chance: float | None = None
    sentence: str


def verdict_of(result: SearchResult) -> tuple[Pick, ...]:
    """Returns the picks of a front, none of an empty one.

    They are of the first objective that is a metric, and the first that is a cost. A
    policy within the loss that `result.within` allows is there for shares of samples
    alone, whose points people compare.
    """
    if not result.front:
        return ()
    metric = next(
        (one for one in result.objectives if one.name in result.front[0].metrics), None
    )
    cost = next(
        (one for one in result.objectives if one.name in result.front[0].costs), None
    )
    if metric is None or cost is None:
        return ()
    if metric.maximize != larger_is_better(metric.name) or cost.maximize:
        return ()  # who turns an objective asks for something else
    figure = figure_of(metric.name, result.heads)
    best = min(result.front, key=lambda one: metric.to_minimized(one.value(metric)))
    # Of one output of several, or of agreement, that is too much said.
    is_whole = figure.is_share and figure == figure_of(metric.name)
    is_whole = is_whole and figure.name != "agreement"
    word = "Most accurate" if is_whole else f"Best {figure.header}"
    value = _text(figure, best.value(metric))
    alike = _not_told_apart(result, metric, best) if figure.is_share else ""
    sentence = f"{word}: {best.name} ({value}){alike}."
    picks = [Pick(kind=BEST, policy=best, sentence=sentence)]
    if figure.is_share:
        picks.append(_within(result, metric, cost, best))
    knee = _knee(result.front, metric, cost)
    if knee is not None:
        sentence = f"Knee: {knee.name}, beyond which more cost buys less."
        picks.append(Pick(kind=KNEE, policy=knee, sentence=sentence))
    return tuple(picks)


def _superlative(cost: str) -> str:
    """Returns what the policy of least cost is called: ``fastest``."""
    ends = [word for end, word in _SUPERLATIVES.items() if cost.endswith(end)]
    return ends[0] if ends else f"least {figure_of(cost).header}"


def parse_want(text: str) -> tuple[str, str | None, float | None]:
    """Reads which policy is wanted: ``smallest within 0.5``.

    Returns:
      The kind of the pick, and the cost and the points of accuracy that it names; None
      where it names none.

    Raises:
      SearchError: If the text has another form.
    """
    words = " ".join(text.lower().split())
    if words in _PLAIN_WANTS:
        return _PLAIN_WANTS[words], None, None
    match = _WITHIN.fullmatch(words)
    if match is None or match[1] not in _COSTS:
        raise SearchError(
            f"Expected what is wanted as 'most accurate', 'knee' or "
            f"'{' | '.join(_COSTS)} within 0.5' (points of accuracy), got {text!r}."
        )
    return CHEAPEST, _COSTS[match[1]], float(match[2])


def _within(
    result: SearchResult, metric: Objective, cost: Objective, best: Candidate
) -> Pick:
    """Returns the cheapest policy that likely loses no more than is allowed.

    If none is likely to, the likeliest, the cheapest of several.
    """
    beside = _beside(result, best)
    level, number = beside.value(metric), result.provenance.num_samples
    chances = {
        one.name: _chance(
            level - one.value(metric),
            result.within / 100.0,
            _deviation(one, beside, metric, number),
        )
        for one in result.front
    }
    likeliest = max(chances.values())
    fitting = [
        one for one in result.front if chances[one.name] >= min(likeliest, _LIKELY)
    ]
    found = min(fitting, key=lambda one: (cost.to_minimized(one.value(cost)), one.name))
    loss, chance = level - found.value(metric), chances[found.name]
    points, allowed = 100.0 * abs(loss), result.within
    way = "below" if loss > -_EQUAL else "above"
    what = f"within {allowed:g} point{'' if allowed == 1 else 's'}"
    best_word = _superlative(cost.name).capitalize()
    role = f"{best_word} {what}" if chance >= _EVEN else f"None is likely {what}"
    nearest = "" if chance >= _EVEN else "the likeliest is "
    sentence = (
        f"{role} of {_reference(beside)}: {nearest}{found.name}, "
        f"{points:.2f} points {way}, within it with a chance of {chance:.0%}"
        f"{_no_gain(found, beside, cost)}."
    )
    return Pick(
        kind=CHEAPEST,
        policy=found,
        beside=beside.name,
        loss=loss,
        chance=chance,
        sentence=sentence,
    )


def _not_told_apart(result: SearchResult, metric: Objective, best: Candidate) -> str:
    """Returns which policies of a front may be as good as the best, in words."""
    number = result.provenance.num_samples
    names = [
        one.name
        for one in result.front
        if one is not best
        and best.value(metric) - one.value(metric)
        < Z95 * _deviation(one, best, metric, number)
    ]
    if not names:
        return ""
    if len(names) == 1:
        return f", which {names[0]} may equal"
    return f", which {len(names)} others, from {names[0]} on, may equal"


def _beside(result: SearchResult, best: Candidate) -> Candidate:
    """Returns the policy that losses are measured from.

    That of 8 bits everywhere, or else the widest uniform one that the target takes, or
    else the most accurate.
    """
    named = [one for one in result.references if _width(one.name) is not None]
    return max(named, key=lambda one: _width(one.name) or 0, default=best)


def _reference(beside: Candidate) -> str:
    """Returns what losses are measured from, with its role where it is not w8a8."""
    width = _width(beside.name)
    if width == MAX_BITS:
        return beside.name
    role = "the most accurate" if width is None else "the widest uniform one"
    return f"{beside.name} ({role} that there is, for want of w8a8)"


def _no_gain(found: Candidate, beside: Candidate, cost: Objective) -> str:
    """Returns the end of a sentence about a policy that costs as much as the other."""
    least = beside.costs.get(cost.name)
    if (
        least is None
        or found.policy == beside.policy
        or cost.to_minimized(found.value(cost)) < cost.to_minimized(least)
    ):
        return ""
    header = figure_of(cost.name).header
    return f"; its {header} is no better than that of {beside.name}"


def _width(name: str) -> int | None:
    """Returns the width of a uniform policy of one width, by its name."""
    weights, _, activations = name.removeprefix("w").partition("a")
    is_one = name.startswith("w") and weights == activations and weights.isdigit()
    return int(weights) if is_one else None


def _deviation(
    one: Candidate, beside: Candidate, metric: Objective, num_samples: int
) -> float:
    """Returns the standard deviation of what a policy loses against another.

    Of predicted shares that of the policy alone: what is not known of the other, which
    is near the best, is not known of both; where samples have a part in it, it is left
    out. Of measured ones as of independent samples.
    """
    if one.policy == beside.policy:
        return 0.0
    deviations = [_given_deviation(policy, metric) for policy in (one, beside)]
    first, second = deviations
    if first is not None and second is not None:
        if not is_expected(metric.name):
            return first
        return math.sqrt(max(first**2 - second**2, (_LEAST * first) ** 2))
    # Two hits and two misses more (Agresti and Coull, 1998): all right is not certain.
    number = max(num_samples, 1)
    shares = [
        (policy.value(metric) * number + 2.0) / (number + 4.0)
        for policy in (one, beside)
    ]
    return math.sqrt(sum(x * (1.0 - x) for x in shares) / (number + 4.0))


def _given_deviation(one: Candidate, metric: Objective) -> float | None:
    """Returns the standard deviation that bounds of a metric tell, if there are any."""
    low, high = (one.metrics.get(name) for name in bound_names(metric.name))
    return None if low is None or high is None else (high - low) / (2.0 * Z95)


def _chance(loss: float, allowed: float, deviation: float) -> float:
    """Returns the chance that a normal variable around a loss is at most as allowed."""
    if deviation <= 0.0:
        return 1.0 if loss <= allowed else 0.0
    return 0.5 * math.erfc((loss - allowed) / (deviation * math.sqrt(2.0)))


def _knee(
    front: tuple[Candidate, ...], metric: Objective, cost: Objective
) -> Candidate | None:
    """Returns the policy farthest from the line between the ends; None of two ends.

    As Das (1999) does, in shares of the range of each objective.
    """
    points = [
        (cost.to_minimized(one.value(cost)), metric.to_minimized(one.value(metric)))
        for one in front
    ]
    axes = [*zip(*points, strict=True)]
    lows, sides = [*map(min, axes)], [max(axis) - min(axis) for axis in axes]
    if len(front) < 3 or min(sides) <= 0.0:
        return None

    def together(index: int) -> float:
        return sum(
            (value - low) / side
            for value, low, side in zip(points[index], lows, sides, strict=True)
        )

    return front[min(range(len(front)), key=together)]


def _text(figure: Figure, value: float) -> str:
    return f"{figure.text(value)} {figure.unit}".strip()
