"""Batch norm statistics of a multi-bitwidth model, estimated again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from matar_tf.errors import DataError, MatarWarning, ModelError
from matar_tf.keras._compat import KerasModel, Tensor, tf
from matar_tf.keras.checks import (
    as_batch,
    check_finite_samples,
    check_initialized,
    check_no_bytes,
    expected_samples,
    input_grids,
    input_ranges,
    warn_of_range,
)
from matar_tf.keras.policies import get_policy, policy_setter
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.grids import BiasGrid, FoldedNorm
from matar_tf.keras.quantizers.tracing import Tracer, tracing
from matar_tf.keras.train.matching import match_statistics
from matar_tf.keras.train.terms import fit_terms, missed_by_terms
from matar_tf.named_arrays import Arrays, alone, each, num_rows
from matar_tf.policy import Policy
from matar_tf.samplers import balanced_policies, spread_policies
from matar_tf.space import PolicySpace

__all__ = ["reestimate_batch_norm"]

_NUM_BATCHES = 490  # ten for each pair of seven widths
_NUM_MATCHED = 245  # five; what is matched is less noisy
_FEWEST = 4  # samples, half of which judge
_HELD_OUT = 4  # one of so many samples, or batches, judges a fit
_NUM_JUDGED = 16  # mixed policies that judge it
_FEW = 4  # times as many are enough to leave those out of the fit


class _Estimator(Tracer):
    """A tracer that normalises with the batch and tells what it saw of it."""

    def __init__(self) -> None:
        self.layers: dict[str, Any] = {}
        self.seen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def bias(self, quantizer: BiasGrid, x: Tensor) -> Tensor:
        return x

    def batch_norm(self, layer: FoldedNorm, x: Tensor) -> Tensor:
        outputs, mean, variance = layer.normalize_batch(x)
        self.layers[layer.name] = layer
        self.seen[layer.name] = (layer.places(), mean, variance)
        return outputs


def reestimate_batch_norm(
    model: KerasModel,
    samples: Any,
    *,
    policies: Sequence[Policy] | None = None,
    batch_size: int = 256,
    transform: Callable[[Any, int], Any] | None = None,
    seed: int = 0,
    method: str = "match",
) -> bool:
    """Fits the statistics of all batch norms to what samples show; labels not needed.

    For the developer, after calibration or training. Weights, scales and shifts are not
    changed; a row that none of the policies uses stays as it is.

    ``match``, for a network that was only calibrated, estimates what a policy changes:
    under each, a batch norm's output gets the mean and variance that it has in the
    float network on the same batch (the model without rounding, with the statistics of
    its widest policy, which stay). 128 to 500 samples of the kind that the network is
    for are enough. A quarter of them judge the fit by how near outputs come to the
    float network's: a uniform policy that is not clearly nearer keeps its statistics,
    and all do if the fit gains nothing. Applied twice it changes nothing.

    ``statistics`` takes what each policy's batches have themselves, for a network that
    was just trained: moving averages lag behind the weights, and rows that are drawn
    rarely lag most. The samples have to be the training's, with its augmentation as
    `transform`; statistics of others can destroy a network. Where a fit to three of
    four batches tells less of the others than what was there, a layer keeps that.

    Args:
      model: A multi-bitwidth model whose activations have steps, or its trainer.
      samples: Samples for the model's input, ``[num_samples, ...]``, float; for
        several inputs as for `matar_tf.calibrate`.
      policies: The policy of each batch; default 245 of all kinds (`spread_policies`)
        for ``match``, 490 in which pairs of widths come up about alike
        (`balanced_policies`) for ``statistics``.
      batch_size: Samples in a batch; at most all are taken.
      transform: Function of a batch and its number that does to samples what training
        does to them; of several inputs a batch is a mapping by their names.
      seed: Of the samples of each batch, and of the default policies.
      method: ``match`` or ``statistics``.

    Returns:
      Whether statistics were changed. Where ``match`` finds nothing to gain, a warning
      says so.

    Raises:
      DataError: If there are no samples, of another shape, not finite or unsigned
        bytes, or no policies; ``match`` needs four samples.
      ModelError: If an activation has no steps yet, the method is none of the two,
        or ``match`` finds one policy alone or statistics that were trained.
      PolicyError: If a policy is not of the model's space.
    """
    if method not in ("match", "statistics"):
        raise ModelError(f"Expected the method match or statistics, got {method!r}.")
    setter = policy_setter(model)
    model = wrapper.multi_bit_network(model)
    check_initialized(model)
    samples = _as_samples(samples, model)
    if method == "match" and setter.space.num_policies == 1:
        raise ModelError(
            "Expected a model of several policies, got one, whose statistics stay "
            "under method='match'; quantize it with more widths, or use "
            "method='statistics'."
        )
    least = _FEWEST if method == "match" else 1
    if policies is None:
        policies = (
            spread_policies(setter.space, _NUM_MATCHED, seed)
            if method == "match"
            else balanced_policies(setter.space, _NUM_BATCHES, seed)
        )
    number = num_rows(samples)
    if not policies or batch_size < 1 or number < least:
        raise DataError(
            f"Expected at least {least} samples, at least one policy and a batch size "
            f"of at least 1, got {number} samples, {len(policies)} policies, "
            f"{batch_size}."
        )
    for policy in policies:
        setter.space.validate(policy)
    transform = transform or (lambda batch, _: batch)
    before = get_policy(model)
    try:
        if method == "match":
            return _match(model, samples, policies, batch_size, transform, seed)
        return _take_statistics(model, samples, policies, batch_size, transform, seed)
    finally:
        setter(before)


def _match(
    model: KerasModel,
    samples: Arrays,
    policies: Sequence[Policy],
    batch_size: int,
    transform: Callable[[Any, int], Any],
    seed: int,
) -> bool:
    order = np.random.default_rng(seed).permutation(num_rows(samples))
    num_held_out = min(max(2, len(order) // _HELD_OUT), batch_size)
    others = order[num_held_out:]
    num_batches = min(-(-len(others) // batch_size), len(policies))
    chosen = [order[:num_held_out], *np.array_split(others, num_batches)]
    held_out, *batches = (
        _clipped(model, transform(_some(samples, part[:batch_size]), number))
        for number, part in enumerate(chosen)
    )
    fitted, judged = _divided(policies, policy_setter(model).space)
    outcome = match_statistics(model, batches, held_out, fitted, judged)
    if outcome is None:
        return False
    if not outcome.taken:
        warnings.warn(
            "Batch norm statistics stay as they were: on samples held out, the squared "
            f"error of outputs is {outcome.before:.3g} of the float network's variance "
            f"and would be {outcome.after:.3g}. Give more samples, if this is not the "
            "second call.",
            MatarWarning,
            stacklevel=3,
        )
    return outcome.taken


def _some(samples: Arrays, index: np.ndarray) -> Any:
    """Returns a batch of some samples, in the order that they have."""
    return each(lambda one: tf.constant(one[np.sort(index)]), samples)


def _clipped(model: KerasModel, batch: Any) -> Any:
    """Returns a batch as the device clips it, also for the float network.

    A dirty pixel would outweigh all.
    """
    ranges = input_ranges(model)
    if not isinstance(batch, Mapping):
        (ends,) = ranges.values()
        return tf.clip_by_value(batch, *ends)
    clipped = {name: tf.clip_by_value(batch[name], *ranges[name]) for name in ranges}
    return {**batch, **clipped}


def _divided(
    policies: Sequence[Policy], space: PolicySpace
) -> tuple[Sequence[Policy], Sequence[Policy]]:
    """Returns what to fit to and what to judge by: few policies are both.

    So are uniform policies. Of many others some are left out of the fit.
    """
    names = space.uniform_names()
    uniform = [one for one in map(space.named, names) if one in policies]
    others = [one for one in dict.fromkeys(policies) if one not in uniform]
    judging = others[:: max(1, len(others) // _NUM_JUDGED)][:_NUM_JUDGED]
    if len(others) >= _FEW * _NUM_JUDGED:
        policies = [one for one in policies if one not in judging]
    return policies, [*uniform, *judging]


def _take_statistics(
    model: KerasModel,
    samples: Arrays,
    policies: Sequence[Policy],
    batch_size: int,
    transform: Callable[[Any, int], Any],
    seed: int,
) -> bool:
    setter = policy_setter(model)
    estimator = _Estimator()

    @tf.function(reduce_retracing=True)
    def observe(batch: Tensor) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        with tracing(estimator):
            model(batch, training=False)
        return dict(estimator.seen)

    observed = []
    for number, policy in enumerate(policies):
        rng = np.random.default_rng((seed, number))
        setter(policy)
        size = min(batch_size, num_rows(samples))
        chosen = rng.choice(num_rows(samples), size, replace=False)
        batch = transform(_some(samples, chosen), number)
        observed.append(observe(batch))
    is_changed = False
    for name, layer in estimator.layers.items():
        places, means, variances = (
            np.stack([one.numpy() for one in column])
            for column in zip(*(seen[name] for seen in observed), strict=True)
        )
        terms = layer.moving_mean.numpy(), layer.moving_variance.numpy()
        if _is_worth_fitting(places, means, variances, terms):
            mean, variance = fit_terms(places, means, variances, *terms)
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)
            is_changed = True
    return is_changed


def _is_worth_fitting(
    places: np.ndarray,
    means: np.ndarray,
    variances: np.ndarray,
    terms: tuple[np.ndarray, np.ndarray],
) -> bool:
    """Returns whether a fit to most batches tells more of the others than `terms` do.

    Of few batches, as of a single policy, nothing is left out to judge by.
    """
    judges = np.arange(len(places)) % _HELD_OUT == 0
    if len(places) < _HELD_OUT**2:
        return True
    fitted = fit_terms(places[~judges], means[~judges], variances[~judges], *terms)
    after, before = (
        missed_by_terms(places[judges], means[judges], variances[judges], *one)
        for one in (fitted, terms)
    )
    return after < before


def _as_samples(samples: Any, model: KerasModel) -> Arrays:
    """Returns samples as arrays, if they are of the shapes of a model's inputs."""
    found = as_batch(model, samples)
    if found is None or any(one.dtype.kind not in "fiu" for one in found.values()):
        try:
            shape: Any = np.shape(samples)
        except (TypeError, ValueError):
            shape = (0,)
        what = "as one array, " if len(model.inputs) == 1 else ""
        raise DataError(
            f"Expected {expected_samples(model)} {what}got {type(samples).__name__} of "
            f"shape {shape}; a tf.data.Dataset has to be read into one."
        )
    for grid in input_grids(model):
        check_no_bytes(found[grid.entry])
        check_finite_samples(found[grid.entry])
    warn_of_range(model, [found], "statistics follow what the grid leaves of them")
    return alone(found)
