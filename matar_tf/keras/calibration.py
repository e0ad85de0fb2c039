"""First steps for the activations of a multi-bitwidth model, from samples."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from matar_tf.errors import DataError
from matar_tf.keras._compat import KerasModel, Tensor, tf
from matar_tf.keras.checks import (
    check_finite_samples,
    check_magnitude,
    fits_input,
    input_grids,
    warn_of_range,
)
from matar_tf.keras.policies import policy_setter
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.fake_quantize import largest_ordinary, sample_values
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
            self._model.call(tf.convert_to_tensor(batch), training=False)

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
    random, are enough; a dirty pixel or a few dirty samples do no harm.

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
    warn_of_range(model, batches)
    (grid,) = input_grids(model)
    clean = _without_dirty(batches)
    tensors = map(tf.convert_to_tensor, clean)
    values = tf.concat([sample_values(one, len(clean)) for one in tensors], axis=0)
    grid.set_from([values])
    calibrator = _Calibrator(model, len(batches))
    limit = _largest_but_outliers(clean, float(largest_ordinary(values)))
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
    batches: list[np.ndarray] = []
    for batch in given:
        shape = _shape(batch)
        if not fits_input(model, shape) or not shape[0]:
            raise DataError(
                f"Expected samples of shape {tuple(model.input_shape)}, got {shape}; "
                "pass a batch, or a list of batches."
            )
        array = np.asarray(batch, np.float32)
        check_finite_samples(array)
        batches += np.array_split(array, -(-len(array) // _BATCH_SIZE))
    if not batches:
        raise DataError("Expected a batch of samples, got an empty list; pass samples.")
    check_magnitude([np.abs(batch).max(initial=0.0) for batch in batches])
    return batches


def _shape(samples: Any) -> tuple[int, ...]:
    try:
        return tuple(np.shape(samples))
    except ValueError as error:
        raise DataError(
            "Expected samples of one shape, or a list of batches, got a list of arrays "
            "of several shapes; pass batches that fit the model's input."
        ) from error


def _without_dirty(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns batches, 0 in the place of samples far larger than most others are."""
    largest = [np.abs(one).reshape(len(one), -1).max(1, initial=0.0) for one in batches]
    sizes = np.concatenate(largest)
    # A quarter may be dirty, three quarters may be silence around some speech.
    limit = _DIRTY_RATIO * np.quantile(sizes[sizes > 0.0], 0.75) if sizes.any() else 0.0
    clean = []
    for batch, size in zip(batches, largest, strict=True):
        is_clean = (size <= limit).reshape(-1, *[1] * (batch.ndim - 1))
        clean.append(np.where(is_clean, batch, np.float32(0.0)))
    return clean


def _largest_but_outliers(batches: Sequence[np.ndarray], ordinary: float) -> np.float32:
    """Returns the largest magnitude that is no outlier; infinity without values."""
    magnitudes = map(np.abs, batches)
    zero = np.float32(0.0)
    largest = max(one[one <= ordinary].max(initial=zero) for one in magnitudes)
    return largest if largest > 0.0 else np.float32(np.inf)


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
