"""Rates of a device from the times of whole networks: a model of few terms, fitted.

The time of a network is a sum of terms, each a count times a cost: a constant, the
layers, and for each kind of layer what `matar_tf.pricing.rates` counts, or its
elements. The logarithms of costs have a normal prior around orders of magnitude, which
are the same for all devices but for one common factor; that of a measured time has a
normal error. The fit is the mode of the posterior, its covariance that of the Laplace
approximation. So no cost is zero, and what few networks tell of stays uncertain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import scipy.optimize  # pyright: ignore[reportMissingTypeStubs]

from matar_tf.policy import MAX_BITS
from matar_tf.pricing.demand import demand_of
from matar_tf.pricing.rates import rate_terms
from matar_tf.targets.fields import MULTIPLY_KINDS
from matar_tf.workload import OpKind, Workload

__all__ = [
    "FittedRates",
    "Steps",
    "Term",
    "choose_networks",
    "count_terms",
    "fit_rates",
    "predict_each",
]

What: TypeAlias = Literal[
    "network", "layer", "macs", "inputs", "outputs", "weights", "elems"
]
_Vector: TypeAlias = npt.NDArray[np.float64]
_least_squares: Any = cast("Any", scipy.optimize).least_squares


class Term(NamedTuple):
    """What is counted of a network.

    Attributes:
      kind: Of which layers; None for all.
      what: What of them; see `matar_tf.pricing.rates.RateTerms`.
    """

    kind: OpKind | None
    what: What


class Steps(NamedTuple):
    """Channels that a device multiplies together; see `matar_tf.targets.compute.Rate`.

    Attributes:
      inputs: Input channels.
      outputs: Output channels.
      depthwise: Channels of a depthwise convolution.
    """

    inputs: int = 1
    outputs: int = 1
    depthwise: int = 1

    def of(self, kind: OpKind) -> tuple[int, int]:
        """Returns those of input and output channels of a kind."""
        if kind is OpKind.DEPTHWISE_CONV:
            return 1, self.depthwise
        return self.inputs, self.outputs


_CHOICES: Final[Mapping[str, tuple[int, ...]]] = {
    "depthwise": (1, 4, 8, 16, 32),
    "outputs": (1, 4, 8, 16),
    "inputs": (1, 4, 8),
}
_NUM_ROUNDS: Final = 2  # of choosing one step after the other
_NETWORK: Final = Term(None, "network")
_LAYER: Final = Term(None, "layer")
# In multiplications of a convolution, and the standard deviation of the logarithm: in
# between what processors with wide vectors and small cores take.
_PRIOR: Final[Mapping[What, tuple[float, float]]] = {
    "network": (3000.0, 3.0),
    "layer": (3000.0, 3.0),
    "macs": (2.0, 1.0),
    "inputs": (4.0, 1.0),
    "outputs": (20.0, 1.0),
    "weights": (5.0, 1.0),
    "elems": (20.0, 1.2),
}
_PRIOR_OF_KIND: Final = {
    Term(OpKind.CONV, "macs"): (1.0, 1.0),
    Term(OpKind.DEPTHWISE_CONV, "macs"): (10.0, 0.7),
    Term(OpKind.AVERAGE_POOL, "elems"): (40.0, 1.5),
    Term(OpKind.MEAN, "elems"): (40.0, 1.2),
    Term(OpKind.PAD, "elems"): (40.0, 1.5),
    Term(OpKind.RESHAPE, "elems"): (40.0, 1.5),
    Term(OpKind.SOFTMAX, "elems"): (300.0, 1.2),
    Term(OpKind.TABLE, "elems"): (60.0, 1.2),
}
_FACTOR_ERROR: Final = 10.0  # of the logarithm of the common factor: nothing is known
_TIME_ERROR: Final = 0.1  # relative, of a time: of the model and the measurement
_MAX_LOGARITHM: Final = 80.0


@dataclass(frozen=True, kw_only=True)
class FittedRates:
    """Costs of a device.

    Attributes:
      steps: Channels that it multiplies together.
      costs: Cost of each term, in the unit of the times.
      errors: Standard error of a kind's cost, relative, in the network that has most of
        it; by kind.
    """

    steps: Steps
    costs: Mapping[Term, float]
    errors: Mapping[OpKind, float]

    def predict(self, workload: Workload) -> float:
        """Returns the time of a network whose kinds of layers are all known."""
        counts = count_terms(workload, self.steps)
        return sum(count * self.costs[term] for term, count in counts.items())


def count_terms(workload: Workload, steps: Steps) -> dict[Term, float]:
    """Returns what is counted of a network, by term."""
    counts: dict[Term, float] = {_NETWORK: 1.0}

    def add(kind: OpKind | None, what: What, count: float) -> None:
        term = Term(kind, what)
        counts[term] = counts.get(term, 0.0) + count

    for layer in workload.layers:
        kind = layer.kind
        add(None, "layer", max(layer.float_ops, 1))
        inputs = (MAX_BITS,) * len(set(layer.inputs))
        weight_bits = None if layer.weights is None else MAX_BITS
        demand = demand_of(layer, workload, (weight_bits, inputs, MAX_BITS))
        if kind in MULTIPLY_KINDS:
            found = rate_terms(demand, *steps.of(kind))
            add(kind, "macs", found.macs)
            add(kind, "inputs", found.inputs)
            add(kind, "outputs", found.outputs)
            add(kind, "weights", found.weights)
        elif kind is OpKind.FLOAT:
            add(kind, "macs", layer.macs)
            add(kind, "elems", layer.float_elems)
        else:
            add(kind, "elems", demand.num_elems)
    return counts


def fit_rates(
    workloads: Sequence[Workload], times: Sequence[float], *, steps: Steps | None = None
) -> FittedRates:
    """Returns the most probable costs of a device.

    Args:
      workloads: Networks.
      times: What they take, above 0.
      steps: Channels that it multiplies together; None for those, of a few powers of
        two, with which the posterior is highest.
    """
    if steps is not None:
        return _Fit(workloads, times, steps).rates()
    known: dict[Steps, _Fit] = {}

    def fit(one: Steps) -> _Fit:
        if one not in known:
            known[one] = _Fit(workloads, times, one)
        return known[one]

    found = Steps()
    for _ in range(_NUM_ROUNDS):
        for name, choices in _CHOICES.items():
            near = [found._replace(**{name: one}) for one in choices]
            found = min(near, key=lambda one: fit(one).loss)
    return fit(found).rates()


def predict_each(
    workloads: Sequence[Workload], times: Sequence[float], steps: Steps
) -> list[float]:
    """Returns what the others tell of the time of each network, by index.

    It is nan of one with a kind of layer that no other has.

    Args:
      workloads: Networks, at least 2.
      times: What they take, above 0.
      steps: Channels that the device multiplies together.
    """
    found: list[float] = []
    for left_out, workload in enumerate(workloads):
        others = [place for place in range(len(times)) if place != left_out]
        rates = fit_rates(
            [workloads[place] for place in others],
            [times[place] for place in others],
            steps=steps,
        )
        found.append(
            rates.predict(workload)
            if count_terms(workload, steps).keys() <= rates.costs.keys()
            else math.nan
        )
    return found


def choose_networks(
    workloads: Sequence[Workload],
    number: int,
    *,
    first: Iterable[int] = (),
) -> list[int]:
    """Returns the networks to measure, so that the others can be told from them.

    One after the other, that which lowers the mean variance of the logarithms of all
    times most, before anything is measured. The last bring kinds of layers that none of
    the others has.

    Args:
      workloads: Networks to choose from.
      number: How many to choose, `first` included.
      first: Indices of networks that are measured in any case.

    Reference:
      Active learning by Cohn, Neural Network Exploration Using Optimal Experiment
      Design, 1996.
    """
    matrix = _Matrix.of([count_terms(one, Steps()) for one in workloads])
    shares = matrix.shares(matrix.prior_means)
    covariance = np.diag(np.square(matrix.prior_errors))
    kinds = [frozenset(layer.kind for layer in one.layers) for one in workloads]
    lacking = frozenset[OpKind]().union(*kinds)
    chosen: list[int] = []
    wanted = [*dict.fromkeys(first)]
    number = min(number, len(workloads))
    while len(chosen) < number:
        reach = shares @ covariance
        variances = (reach * shares).sum(axis=1) + _TIME_ERROR**2
        gains = np.square(reach @ shares.T).sum(axis=0) / variances
        if len(lacking) >= number - len(chosen):
            gains *= [bool(lacking & one) for one in kinds]
        gains[chosen] = -1.0
        best = wanted.pop(0) if wanted else int(np.argmax(gains))
        chosen.append(best)
        lacking -= kinds[best]
        covariance -= np.outer(reach[best], reach[best]) / variances[best]
    return chosen


@dataclass(frozen=True)
class _Matrix:
    """Counts of networks, by term; the first of the parameters is the factor."""

    terms: list[Term]
    counts: _Vector
    prior_means: _Vector
    prior_errors: _Vector

    @classmethod
    def of(cls, counts: Sequence[Mapping[Term, float]]) -> _Matrix:
        found = {term for one in counts for term in one}
        terms = sorted(found, key=lambda term: (str(term.kind), term.what))
        priors = [_PRIOR_OF_KIND.get(one, _PRIOR[one.what]) for one in terms]
        return cls(
            terms,
            np.array([[one.get(term, 0.0) for term in terms] for one in counts]),
            np.array([0.0, *(math.log(mean) for mean, _ in priors)]),
            np.array([_FACTOR_ERROR, *(error for _, error in priors)]),
        )

    def costs(self, parameters: _Vector) -> _Vector:
        logarithms = parameters[1:] + parameters[0]
        return np.exp(np.clip(logarithms, -_MAX_LOGARITHM, _MAX_LOGARITHM))

    def times(self, parameters: _Vector) -> _Vector:
        return self.counts @ self.costs(parameters)

    def shares(self, parameters: _Vector) -> _Vector:
        """Returns the derivatives of the logarithms of times."""
        parts = self.counts * self.costs(parameters)
        parts /= parts.sum(axis=1, keepdims=True)
        return np.hstack([np.ones((len(parts), 1)), parts])


class _Fit:
    """The mode of the posterior for given steps."""

    def __init__(
        self, workloads: Sequence[Workload], times: Sequence[float], steps: Steps
    ) -> None:
        self._steps = steps
        self._matrix = _Matrix.of([count_terms(one, steps) for one in workloads])
        logarithms = np.log(np.asarray(times, np.float64))
        start = self._matrix.prior_means.copy()
        start[0] = np.median(logarithms - np.log(self._matrix.times(start)))
        middle = self._matrix.prior_means.copy()
        middle[0] = start[0]
        errors = self._matrix.prior_errors

        def residuals(parameters: _Vector) -> _Vector:
            found = np.log(self._matrix.times(parameters))
            return np.concatenate(
                [(found - logarithms) / _TIME_ERROR, (parameters - middle) / errors]
            )

        def slopes(parameters: _Vector) -> _Vector:
            shares = self._matrix.shares(parameters) / _TIME_ERROR
            return np.vstack([shares, np.diag(1.0 / errors)])

        found = _least_squares(residuals, start, jac=slopes)
        self.loss = float(found.cost)
        self._parameters: _Vector = found.x
        jacobian = slopes(self._parameters)
        self._covariance: _Vector = np.linalg.inv(jacobian.T @ jacobian)

    def rates(self) -> FittedRates:
        """Returns what was found."""
        matrix = self._matrix
        costs = matrix.costs(self._parameters)
        return FittedRates(
            steps=self._steps,
            costs=dict(zip(matrix.terms, costs.tolist(), strict=True)),
            errors={
                kind: self._error(costs, kind)
                for kind in OpKind
                if any(term.kind is kind for term in matrix.terms)
            },
        )

    def _error(self, costs: _Vector, kind: OpKind) -> float:
        is_of = np.array([term.kind is kind for term in self._matrix.terms])
        parts = self._matrix.counts * costs
        most = int(np.argmax(parts[:, is_of].sum(axis=1) / parts.sum(axis=1)))
        weights = np.where(is_of, parts[most], 0.0)
        along = np.array([1.0, *(weights / weights.sum())])
        return float(np.sqrt(along @ self._covariance @ along))
