"""Batch norm statistics under which every policy computes as the float network does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from matar_tf.errors import ModelError
from matar_tf.keras._compat import KerasModel, Tensor, tf
from matar_tf.keras.policies import PolicySetter, policy_setter
from matar_tf.keras.quantizers.grids import BiasGrid, FoldedNorm
from matar_tf.keras.quantizers.tracing import FloatTracer, Tracer, tracing
from matar_tf.keras.train.terms import fit_terms, flat
from matar_tf.policy import Policy

__all__ = ["Outcome", "match_statistics", "matched"]

_CLEARLY = 0.8  # of the error that was: what is worth changing a uniform policy for
_AT_ALL = 0.99  # what is worth changing any, so that a second fit changes nothing
_FIRM = 1e4  # batches that count as the statistics of a policy that keeps them
_NO_VARIANCE = 1e-3  # of epsilon: keeps channels that are the same everywhere apart
_TINY = 1e-20  # keeps outputs that are the same for all samples out of a division

_Statistics = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a fit of the statistics came to, on samples that it did not see.

    Errors are squared differences from the outputs of the float network, over the
    variance of these, of several outputs their mean; means of their logarithms over
    policies.

    Attributes:
      taken: Whether the statistics were changed.
      before: Error with the statistics that were there.
      after: Error with the fitted ones.
    """

    taken: bool
    before: float
    after: float


def matched(
    stored: tuple[Tensor, Tensor],
    reference: tuple[Tensor, Tensor],
    seen: tuple[Tensor, Tensor],
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Returns statistics under which a batch norm's outputs are as in the reference.

    Their mean and variance over a batch then are those that the reference network's
    have on the same batch: ``r = (seen + d) / (reference + d)`` of the variances,
    ``variance = (stored + epsilon) * r - epsilon``,
    ``mean = seen + sqrt(r) * (stored - reference)`` of the means. A variance below
    epsilon counts as epsilon, which hides it: logarithms would exaggerate it.

    Args:
      stored: Mean and variance that the reference normalises with, ``[channels]``.
      reference: Mean and variance of its batch, before the batch norm.
      seen: Those of the policy on the same batch.
      epsilon: Of the batch norm.
    """
    least = epsilon * _NO_VARIANCE
    ratio = (seen[1] + least) / (reference[1] + least)
    mean = seen[0] + tf.sqrt(ratio) * (stored[0] - reference[0])
    variance = (stored[1] + epsilon) * ratio - epsilon
    factor = tf.maximum(variance, epsilon) / tf.maximum(stored[1], epsilon)
    return mean, stored[1] * factor


class _Reference(FloatTracer):
    """Tells what every batch norm of the float network sees of a batch."""

    def __init__(self) -> None:
        self.layers: dict[str, Any] = {}
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}

    def batch_norm(self, layer: FoldedNorm, x: Tensor) -> Tensor:
        self.layers[layer.name] = layer
        self.seen[layer.name] = _moments(x)
        return super().batch_norm(layer, x)


class _Matcher(Tracer):
    """Normalises with matched statistics, so that later layers see these."""

    def __init__(self, stored: _Statistics, reference: _Statistics) -> None:
        self._stored = stored
        self._reference = reference
        self.found: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def bias(self, quantizer: BiasGrid, x: Tensor) -> Tensor:
        return x

    def batch_norm(self, layer: FoldedNorm, x: Tensor) -> Tensor:
        name = layer.name
        mean, variance = matched(
            self._stored[name], self._reference[name], _moments(x), layer.epsilon
        )
        self.found[name] = (layer.places(), mean, variance)
        scale, offset = layer.folded_with(mean, variance)
        return x * scale + offset


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, variance = tf.nn.moments(x, list(range(len(x.shape) - 1)))
    return tf.cast(mean, tf.float64), tf.cast(variance, tf.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Batches:
    """What one batch norm is to be fitted to: `places`, means and variances."""

    places: np.ndarray
    means: np.ndarray
    variances: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class _Norm:
    """A batch norm and the terms of its statistics when the fit began.

    Attributes:
      layer: The layer.
      stored: Mean and variance under the widest policy.
      widest: Row of each term under that policy.
      terms: Terms of the mean and of the variance.
    """

    layer: Any
    stored: tuple[Tensor, Tensor]
    widest: np.ndarray
    terms: tuple[np.ndarray, np.ndarray]

    @property
    def is_trained(self) -> bool:
        """Whether training moved rows that calibration and `fitted` leave neutral."""
        mean, variance = (terms[self.widest[1:]] for terms in self.terms)
        return bool(np.any(mean != 0.0) or np.any(variance != 1.0))

    def assign(self, terms: tuple[np.ndarray, np.ndarray]) -> None:
        """Sets the terms of the mean and of the variance."""
        self.layer.moving_mean.assign(terms[0])
        self.layer.moving_variance.assign(terms[1])

    def fitted(
        self, batches: _Batches, kept: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns terms fitted to batches; policies with places `kept` keep sums."""
        means, variances = self.terms
        is_kept = np.ones(len(means), bool)
        is_kept[batches.places] = False
        is_kept[self.widest] = True
        rows = is_kept[:, np.newaxis]
        weights = np.ones(len(batches.places) + len(kept))
        weights[len(batches.places) :] = _FIRM
        fitted = fit_terms(
            np.stack([*batches.places, *kept]),
            np.stack([*batches.means, *(means[one].sum(0) for one in kept)]),
            np.stack([*batches.variances, *(variances[one].prod(0) for one in kept)]),
            np.where(rows, means, flat(means, self.widest, 0.0)),
            np.where(rows, variances, flat(variances, self.widest, 1.0)),
            kept=is_kept,
            weights=weights,
        )
        # Exactly: logarithms round.
        return np.where(rows, means, fitted[0]), np.where(rows, variances, fitted[1])


def match_statistics(
    model: KerasModel,
    batches: Sequence[Any],
    held_out: Any,
    policies: Sequence[Policy],
    judged: Sequence[Policy],
) -> Outcome | None:
    """Fits the statistics of all batch norms, if that brings outputs nearer to float's.

    The float network is the model without rounding, with the statistics of its widest
    policy, which stay: so they are still there when this is called again. So do those
    of each uniform policy whose outputs the fit does not bring clearly nearer.

    Args:
      model: A multi-bitwidth model whose activations have steps.
      batches: The batch of each policy is the next of these, in turns; of several
        inputs by their names.
      held_out: A batch to judge the fit on, of samples that are in no other.
      policies: What to fit to.
      judged: What to judge the fit by.

    Returns:
      What became of the outputs; None if the model has no batch norm.

    Raises:
      ModelError: If the statistics were trained: without rounding and clipping, such a
        model is none that its policies are to be like.
    """
    setter = policy_setter(model)
    setter(setter.space.widest())
    reference = _Reference()
    outputs = _pass(model, reference, held_out)
    norms = {
        name: _Norm(
            layer=layer,
            stored=layer.statistics(),
            widest=layer.places().numpy(),
            terms=(layer.moving_mean.numpy(), layer.moving_variance.numpy()),
        )
        for name, layer in reference.layers.items()
    }
    if not norms:
        return None
    if any(norm.is_trained for norm in norms.values()):
        raise ModelError(
            "Expected a network that was not trained since it was quantized for "
            "method='match', but its batch norms have learned statistics; use "
            "method='statistics' with samples as in training."
        )
    targets = _targets(model, setter, norms, batches, policies)
    error = _Error(model, setter, held_out, outputs)
    before = error(judged)
    taken = False
    try:
        after = _fit(norms, targets, setter, error, judged, before)
        mean_before, mean_after = (
            float(np.exp(np.mean(np.log(errors)))) for errors in (before, after)
        )
        taken = mean_after < _AT_ALL * mean_before
    finally:
        if not taken:
            for norm in norms.values():
                norm.assign(norm.terms)
    return Outcome(taken=taken, before=mean_before, after=mean_after)


def _fit(
    norms: Mapping[str, _Norm],
    targets: Mapping[str, _Batches],
    setter: PolicySetter,
    error: _Error,
    judged: Sequence[Policy],
    before: Sequence[float],
) -> list[float]:
    """Fits all batch norms and returns the errors of the judged policies.

    Until every uniform policy is clearly better or keeps its statistics.
    """
    uniform = [*map(setter.space.named, setter.space.uniform_names())]
    kept: set[int] = set()
    places = [_places(setter, norms, policy) for policy in judged]
    while True:
        for name, norm in norms.items():
            others = [places[number][name] for number in sorted(kept)]
            norm.assign(norm.fitted(targets[name], others))
        after = error(judged)
        worse = {
            number
            for number, policy in enumerate(judged)
            if policy in uniform and after[number] > _CLEARLY * before[number]
        }
        if worse <= kept:
            return after
        kept |= worse


def _pass(model: KerasModel, tracer: Tracer, batch: Any) -> Any:
    with tracing(tracer):
        return model(batch, training=False)


def _targets(
    model: KerasModel,
    setter: PolicySetter,
    norms: Mapping[str, _Norm],
    batches: Sequence[Any],
    policies: Sequence[Policy],
) -> dict[str, _Batches]:
    """Returns the matched statistics of all batch norms, policy after policy."""

    @tf.function(reduce_retracing=True)
    def refer(batch: Any) -> _Statistics:
        reference = _Reference()
        _pass(model, reference, batch)
        return reference.seen

    @tf.function(reduce_retracing=True)
    def match(batch: Any, reference: _Statistics) -> dict[str, Any]:
        matcher = _Matcher(stored, reference)
        _pass(model, matcher, batch)
        return matcher.found

    stored = {name: norm.stored for name, norm in norms.items()}
    setter(setter.space.widest())
    references = [refer(batch) for batch in batches]
    found: list[dict[str, list[np.ndarray]]] = []
    for number, policy in enumerate(policies):
        setter(policy)
        index = number % len(batches)
        seen = match(batches[index], references[index])
        found.append({name: [one.numpy() for one in seen[name]] for name in norms})
    return {
        name: _Batches(
            places=np.stack([one[name][0] for one in found]),
            means=np.stack([one[name][1] for one in found]),
            variances=np.stack([one[name][2] for one in found]),
        )
        for name in norms
    }


def _places(
    setter: PolicySetter, norms: Mapping[str, _Norm], policy: Policy
) -> dict[str, np.ndarray]:
    setter(policy)
    return {name: norm.layer.places().numpy() for name, norm in norms.items()}


class _Error:
    """Squared differences of outputs from the float network's, over their variance."""

    def __init__(
        self,
        model: KerasModel,
        setter: PolicySetter,
        samples: Any,
        outputs: Any,
    ) -> None:
        self._call = tf.function(lambda batch: model(batch, training=False))
        self._setter = setter
        self._samples = samples
        self._outputs = _arrays(outputs)
        self._scales = [
            np.sum((one - one.mean(0)) ** 2) + _TINY for one in self._outputs
        ]

    def __call__(self, policies: Sequence[Policy]) -> list[float]:
        errors = []
        for policy in policies:
            self._setter(policy)
            found = _arrays(self._call(self._samples))
            missed = [
                np.sum((one - other) ** 2) / scale
                for one, other, scale in zip(
                    found, self._outputs, self._scales, strict=True
                )
            ]
            errors.append(float(np.mean(missed)) + _TINY)
        return errors


def _arrays(outputs: Any) -> list[np.ndarray]:
    """Returns the outputs of a network in double precision."""
    return [one.numpy().astype(np.float64) for one in tf.nest.flatten(outputs)]
