"""What is searched for a target, and what measures it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from matar_tf.errors import PolicyError
from matar_tf.evolution._genome import GenomeCodec, LegalPairs
from matar_tf.evolution._limits import Breach, Limit, breach_of
from matar_tf.patterns import matching
from matar_tf.policy import Policy
from matar_tf.space import PolicySpace

__all__ = [
    "BatchEvaluator",
    "Evaluator",
    "SearchProblem",
    "evaluate_in_turn",
    "fix_entries",
]

_TEXT: Final = re.compile(
    r"(?P<kind>weights|activations):(?P<names>[^=]+)="
    r"(?P<bits>[1-9][0-9]{0,2}(,[1-9][0-9]{0,2})*)"
)


class Evaluator(Protocol):
    """Measures one policy."""

    def __call__(self, policy: Policy, /) -> Mapping[str, float]:
        """Returns finite metrics by name, such as accuracy in [0, 1] and loss.

        The metrics must depend on the policy alone: the same policy gives the same
        metrics, in any process and any order.
        """
        ...


class BatchEvaluator(Protocol):
    """Measures several policies, perhaps in parallel."""

    def __call__(
        self, policies: Sequence[Policy], /
    ) -> Iterable[tuple[Policy, Mapping[str, float]]]:
        """Yields each policy once with its metrics, in any order.

        Results are kept as they arrive, so yield early.
        """
        ...


def evaluate_in_turn(evaluator: Evaluator) -> BatchEvaluator:
    """Returns a batch evaluator that measures one policy after the other."""

    def evaluate_many(
        policies: Sequence[Policy],
    ) -> Iterator[tuple[Policy, Mapping[str, float]]]:
        for policy in policies:
            yield policy, evaluator(policy)

    return evaluate_many


def _no_violations(policy: Policy) -> tuple[str, ...]:
    del policy
    return ()


@dataclass(frozen=True, kw_only=True)
class SearchProblem:
    """What is searched, for which target.

    Attributes:
      target: Name of the target, for the result.
      space: The policies to choose from.
      costs: Returns the costs of a policy by name; None where the target gives no
        figure. The names must not depend on the policy.
      violations: Returns one sentence for each constraint of the target that a
        policy breaks; such a policy is never in the result, and is evaluated only
        to learn what one entry's bits do.
      pairs: The entries of a layer's weights and of its input, for each layer: what
        their widths cost is decided by both together.
      legal_pairs: Widths of such entries that may stand together, where not all may:
        what `violations` would find, known beforehand.
      seeds: Policies to start from, by name, beside the uniform ones. Those that
        meet the constraints are among the references of the result.
      beside: Policies of 16-bit activations, by name. Measured first, they may be in
        the front and are among the references, and no policy is bred from them.
      metric_names: Names of the metrics that the evaluator returns.
    """

    target: str
    space: PolicySpace
    costs: Callable[[Policy], Mapping[str, float | None]]
    violations: Callable[[Policy], tuple[str, ...]] = _no_violations
    pairs: tuple[tuple[str, str], ...] = ()
    legal_pairs: LegalPairs = field(
        default_factory=dict[tuple[str, str], Collection[tuple[int, int]]]
    )
    seeds: Mapping[str, Policy] = field(default_factory=dict[str, Policy])
    beside: Mapping[str, Policy] = field(default_factory=dict[str, Policy])
    metric_names: tuple[str, ...] = ("accuracy", "loss")

    def codec(self) -> GenomeCodec:
        """Returns the codec of the legal part of the space."""
        return GenomeCodec(self.space, self.legal_pairs)

    def breach(self, policy: Policy, limits: Iterable[Limit]) -> Breach:
        """Returns the constraints and limits on costs that a policy breaks."""
        texts = self.violations(policy)
        bounds = [one for one in limits if one.name not in self.metric_names]
        # What a target does not take has no costs.
        if texts or not bounds:
            return Breach(texts)
        return breach_of(bounds, self.costs(policy))


def fix_entries(space: PolicySpace, texts: Iterable[str]) -> PolicySpace:
    """Returns a space in which some entries have fewer widths.

    Args:
      space: The space.
      texts: Such as ``weights:stem=8``, ``activations:stack1_*=4`` or
        ``weights:stack1_*=4,8``: the kind, a name or a pattern of names (as of files),
        and the widths that stay. Later ones narrow further.

    Raises:
      PolicyError: If a text has another form, its pattern matches no name, or an entry
        does not have the widths.
    """
    for text in texts:
        match = _TEXT.fullmatch(text.replace(" ", ""))
        if match is None:
            raise PolicyError(
                "Expected what to fix such as 'weights:stem=8' or "
                f"'activations:stack1_*=4,8', got {text!r}."
            )
        bits = sorted({int(one) for one in match["bits"].split(",")})
        entries: Mapping[str, tuple[int, ...]] = getattr(space, match["kind"])
        names = matching(entries, match["names"], match["kind"])
        without = [name for name in names if not set(bits) <= set(entries[name])]
        if without:
            raise PolicyError(
                f"Expected widths out of {list(entries[without[0]])} for the "
                f"{match['kind']} entry {without[0]!r}, got {bits} in {text!r}"
                f"{_remedy(without, names)}."
            )
        space = space.with_choices(**{match["kind"]: dict.fromkeys(names, bits)})
    return space


def _remedy(without: Sequence[str], names: Sequence[str]) -> str:
    """Returns the end of a sentence: what to name instead of all that matched."""
    if len(without) == len(names):
        return ""
    listed = ", ".join(map(repr, without))
    return (
        f"; of the {len(names)} entries that match, name those only that have these "
        f"widths: all but {listed}"
    )
