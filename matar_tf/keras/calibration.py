"""First steps for the activations of a multi-bitwidth model, from samples."""

from __future__ import annotations

import hashlib
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from matar_tf.errors import DataError, MatarWarning
from matar_tf.keras._compat import KerasModel, Tensor, tf
from matar_tf.keras.checks import (
    check_finite_samples,
    check_magnitude,
    check_no_bytes,
    fits_input,
    input_grids,
    warn_of_range,
)
from matar_tf.keras.policies import policy_setter
from matar_tf.keras.quantizers import watch, wrapper
from matar_tf.keras.quantizers.fake_quantize import sample_values
from matar_tf.keras.quantizers.grids import LearnedGrid
from matar_tf.keras.quantizers.tracing import FloatTracer, tracing

__all__ = ["calibrate", "calibration_record"]

_BATCH_SIZE = 512
_DIRTY_RATIO = 16.0  # of a sample's largest magnitude to that of most samples


class _Calibrator(FloatTracer):
    """A tracer that keeps values of every activation on its way.

    It sees the float network: batch norms only know the statistics of that one, and
    behind narrow kernels they would shrink what comes after.

    Args:
      model: The model; its input has its steps.
      num_batches: Number of batches to come.
    """

    def __init__(self, model: KerasModel, num_batches: int) -> None:
        self._model = model
        (self._input,) = input_grids(model)
        self._num_batches = num_batches
        # Every tensor on a grid, in the order of a pass: the grid, and values.
        self._tensors: list[tuple[LearnedGrid, list[Tensor]]] = []
        self._place = -1

    def see(self, batch: np.ndarray) -> None:
        """Passes a batch through the model."""
        self._place = -1
        with tracing(self):
            self._model(tf.convert_to_tensor(batch), training=False)

    def activation(self, quantizer: LearnedGrid, x: Tensor) -> Tensor:
        self._place += 1
        if self._place == len(self._tensors):
            self._tensors.append((quantizer, []))
        self._tensors[self._place][1].append(sample_values(x, self._num_batches))
        return x

    def set_steps(self) -> None:
        """Sets the steps of every grid but that of the input.

        A grid that several tensors share reaches as far as the widest needs.
        """
        grids = {id(grid): grid for grid, _ in self._tensors}
        tensors: dict[int, list[Tensor]] = {}
        for grid, parts in self._tensors:
            tensors.setdefault(id(grid), []).append(tf.concat(parts, axis=0))
        for key, grid in grids.items():
            if grid is not self._input:
                grid.set_from(tensors[key])


def calibrate(model: KerasModel, samples: ArrayLike | Sequence[ArrayLike]) -> None:
    """Sets the steps of all activations to fit some samples; labels are not needed.

    They fit what the tensors are without any quantization, whatever the policy.
    Training does this by itself on its first batches; call this to evaluate or export
    without training, or to start training from more samples. A few hundred, drawn at
    random, are enough. A few samples (one of 20 at most) whose values are more than 16
    times as large as those of all others set no steps, and a warning says so.

    Warns in one sentence if samples lie outside of what the input's grid can hold:
    below 0 where there are no such levels, or beyond the range that it was set for.

    Args:
      model: A multi-bitwidth model, or its trainer.
      samples: A batch for the model's input, ``[num_samples, ...]``, float; or a list
        of batches, of any lengths.

    Raises:
      DataError: If the samples do not fit the model's input, are not finite, or so
        small that they count as zero.
      ModelError: If the model has no multi-bitwidth quantizers, or several inputs.
    """
    policy_setter(model)  # refuses a model without quantizers
    model = wrapper.multi_bit_network(model)
    batches = _batches(model, samples)
    warn_of_range(model, batches, "it is set anew")
    (grid,) = input_grids(model)
    clean, limit = _without_dirty(batches)
    tensors = map(tf.convert_to_tensor, clean)
    values = tf.concat([sample_values(one, len(clean)) for one in tensors], axis=0)
    grid.set_from([values])
    calibrator = _Calibrator(model, len(batches))
    for batch in batches:
        # As the device does, or one dirty pixel would reach every tensor behind it.
        calibrator.see(np.clip(batch, -limit, limit))
    calibrator.set_steps()
    _CALIBRATIONS[model] = _record(batches)


def _batches(model: KerasModel, samples: Any) -> list[np.ndarray]:
    """Returns checked batches, float32, of a size that memory holds."""
    given = [samples]
    if isinstance(samples, list | tuple) and all(
        fits_input(model, _shape(one)) for one in samples
    ):
        given = list(samples)
    arrays: list[np.ndarray] = []
    for batch in given:
        shape = _shape(batch)
        if not fits_input(model, shape) or not shape[0]:
            raise DataError(
                f"Expected samples of shape {tuple(model.input_shape)}, got {shape}; "
                "pass a batch, or a list of batches."
            )
        array = np.asarray(batch)
        check_no_bytes(array)
        arrays.append(array.astype(np.float32))
        check_finite_samples(arrays[-1])
    if not arrays:
        raise DataError("Expected a batch of samples, got an empty list; pass samples.")
    array = np.concatenate(arrays)  # so that it is the same in one piece and in many
    if not array.any():
        warnings.warn(
            "All samples are zero, which tells nothing of their range: steps are those "
            "of a largest magnitude of 1; calibrate again on samples that are not.",
            MatarWarning,
            stacklevel=3,
        )
    check_magnitude(array)
    return np.array_split(array, -(-len(array) // _BATCH_SIZE))


def _shape(samples: Any) -> tuple[int, ...]:
    try:
        return tuple(np.shape(samples))
    except ValueError as error:
        raise DataError(
            "Expected samples of one shape, or a list of batches, got a list of arrays "
            "of several shapes; pass batches that fit the model's input."
        ) from error


def _without_dirty(batches: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Returns batches with 0 for dirty samples, and the largest magnitude of others.

    Warns in one sentence if there are any.
    """
    largest = [np.abs(one).reshape(len(one), -1).max(1) for one in batches]
    sizes = np.concatenate(largest)
    limit = float(watch.largest_ordinary(tf.constant(sizes), _DIRTY_RATIO))
    is_dirty = sizes > limit
    ordinary = float(sizes[~is_dirty].max())
    if is_dirty.any():
        warnings.warn(
            f"Values of {is_dirty.sum()} of {len(sizes)} samples reach "
            f"{sizes.max():.4g}, those of all others {ordinary:.4g} at most; steps are "
            "set by the others alone. Mend these samples, or pass more of their kind.",
            MatarWarning,
            stacklevel=3,
        )
    clean = []
    for batch, size in zip(batches, largest, strict=True):
        is_clean = (size <= limit).reshape(-1, *[1] * (batch.ndim - 1))
        clean.append(np.where(is_clean, batch, np.float32(0.0)))
    return clean, ordinary


def calibration_record(model: KerasModel) -> dict[str, Any]:
    """Returns what `calibrate` last saw for a model in this process, for the record.

    Returns:
      SHA-256 and number of the samples, as float32; nothing if it saw none.
    """
    return dict(_CALIBRATIONS.get(wrapper.multi_bit_network(model), {}))


_CALIBRATIONS: weakref.WeakKeyDictionary[Any, dict[str, Any]] = (
    weakref.WeakKeyDictionary()
)


def _record(batches: Sequence[np.ndarray]) -> dict[str, Any]:
    number = sum(map(len, batches))
    shape = number, *batches[0].shape[1:]
    digest = hashlib.sha256(f"{batches[0].dtype}{shape}".encode())
    for batch in batches:
        digest.update(np.ascontiguousarray(batch).tobytes())
    return {
        "calibration_digest": digest.hexdigest(),
        "calibration_samples": number,
    }
