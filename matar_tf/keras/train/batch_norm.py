"""Batch norm statistics of a multi-bitwidth model, estimated again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from matar_tf.errors import DataError
from matar_tf.keras._compat import KerasModel, Tensor, tf
from matar_tf.keras.checks import check_finite_samples, check_initialized, fits_input
from matar_tf.keras.policies import get_policy, policy_setter
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.grids import BiasGrid, FoldedNorm
from matar_tf.keras.quantizers.tracing import Tracer, tracing
from matar_tf.policy import Policy
from matar_tf.samplers import balanced_policies

__all__ = ["fit_terms", "reestimate_batch_norm"]

_NUM_BATCHES = 490  # ten for each pair of seven widths
_SHRINKAGE = 0.01  # of a batch: what the present terms weigh against new ones
_TINY = 1e-20  # keeps a variance of 0 out of the logarithm


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


def fit_terms(
    places: np.ndarray,
    means: np.ndarray,
    variances: np.ndarray,
    mean_terms: np.ndarray,
    variance_terms: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Fits the terms of a batch norm's statistics to batches, by least squares.

    Ridge regression of what the present terms miss, of the logarithm for the variance:
    rows that no batch used stay as they are.

    Args:
      places: Row of each term under each batch's policy, ``[num_batches, num_terms]``.
      means: Mean of each batch, ``[num_batches, channels]``.
      variances: Variance of each batch, ``[num_batches, channels]``.
      mean_terms: Present terms of the mean, ``[num_rows, channels]``.
      variance_terms: Present terms of the variance, ``[num_rows, channels]``.

    Returns:
      New terms of the mean and of the variance, float32.
    """
    design = np.zeros((len(places), len(mean_terms)))
    np.put_along_axis(design, places, 1.0, axis=1)
    gram = design.T @ design + _SHRINKAGE * np.eye(design.shape[1])

    def fitted(seen: np.ndarray, terms: np.ndarray) -> np.ndarray:
        return terms + np.linalg.solve(gram, design.T @ (seen - design @ terms))

    logs = np.log(variances.astype(np.float64) + _TINY)
    log_terms = np.log(variance_terms.astype(np.float64) + _TINY)
    return (
        fitted(means.astype(np.float64), mean_terms).astype(np.float32),
        np.exp(fitted(logs, log_terms)).astype(np.float32),
    )


def reestimate_batch_norm(
    model: KerasModel,
    samples: ArrayLike,
    *,
    policies: Sequence[Policy] | None = None,
    batch_size: int = 256,
    transform: Callable[[Tensor, int], Tensor] | None = None,
    seed: int = 0,
) -> None:
    """Fits the statistics of all batch norms to what training samples show.

    For the developer, after training: moving averages lag behind the weights, and rows
    that are drawn rarely lag most. Weights, scales and shifts are not changed; a row
    that none of the policies uses stays as it is.

    Args:
      model: A trained multi-bitwidth model, or its trainer.
      samples: Training samples, ``[num_samples, ...]``, float, as in training.
      policies: The policy of each batch, each of which has other samples; default
        490 in which pairs of widths come up about alike (`balanced_policies`).
      batch_size: Samples in a batch; at most all are taken.
      transform: Function of a batch and its number that does to samples what training
        does to them. The network was fitted to the statistics of such samples: those
        of images that are not shifted, say, can cost it points.
      seed: Of the samples of each batch, and of the default policies.

    Raises:
      DataError: If there are no samples, of another shape or not finite, or no
        policies.
      ModelError: If an activation has no steps yet.
      PolicyError: If a policy is not of the model's space.
    """
    setter = policy_setter(model)
    model = wrapper.multi_bit_network(model)
    check_initialized(model)
    if policies is None:
        policies = balanced_policies(setter.space, _NUM_BATCHES, seed)
    samples = _as_samples(samples, model)
    if not policies or batch_size < 1 or not len(samples):
        raise DataError(
            f"Expected samples, at least one policy and a batch size of at least 1, "
            f"got {len(samples)} samples, {len(policies)} policies, {batch_size}."
        )
    before = get_policy(model)
    estimator = _Estimator()

    @tf.function(reduce_retracing=True)
    def observe(batch: Tensor) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        with tracing(estimator):
            model.call(batch, training=False)
        return dict(estimator.seen)

    observed = []
    try:
        for number, policy in enumerate(policies):
            rng = np.random.default_rng((seed, number))
            setter(policy)
            size = min(batch_size, len(samples))
            chosen = rng.choice(len(samples), size, replace=False)
            batch = tf.constant(samples[np.sort(chosen)])
            if transform is not None:
                batch = transform(batch, number)
            observed.append(observe(batch))
    finally:
        setter(before)
    for name, layer in estimator.layers.items():
        places, means, variances = (
            np.stack([one.numpy() for one in column])
            for column in zip(*(seen[name] for seen in observed), strict=True)
        )
        mean, variance = fit_terms(
            places,
            means,
            variances,
            layer.moving_mean.numpy(),
            layer.moving_variance.numpy(),
        )
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)


def _as_samples(samples: ArrayLike, model: KerasModel) -> np.ndarray:
    """Returns samples as an array, if they are of a model's input shape."""
    try:
        found = np.asarray(samples)
    except (TypeError, ValueError):
        found = np.empty(0)
    if not fits_input(model, found.shape) or found.dtype.kind not in "fiu":
        raise DataError(
            f"Expected samples of shape {tuple(model.input_shape)} as one array, got "
            f"{type(samples).__name__} of shape {np.shape(found)}; a tf.data.Dataset "
            "has to be read into one."
        )
    check_finite_samples(found)
    return found
