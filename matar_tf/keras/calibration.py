"""First steps for the activations of a multi-bitwidth model, from samples."""

from __future__ import annotations

import hashlib
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from matar_tf.errors import DataError, MatarWarning
from matar_tf.inputs import InputInfo
from matar_tf.keras._compat import KerasModel, Tensor, tf
from matar_tf.keras.checks import (
    as_batch,
    check_finite_samples,
    check_magnitude,
    check_no_bytes,
    expected_samples,
    input_grids,
    warn_of_range,
)
from matar_tf.keras.policies import policy_setter
from matar_tf.keras.quantizers import watch, wrapper
from matar_tf.keras.quantizers.fake_quantize import sample_values
from matar_tf.keras.quantizers.grids import LearnedGrid
from matar_tf.keras.quantizers.tracing import FloatTracer, tracing
from matar_tf.named_arrays import alone, each, num_rows

__all__ = ["calibrate", "calibration_inputs", "calibration_record"]

_BATCH_SIZE = 512
_DIRTY_RATIO = 16.0  # of a sample's largest magnitude to that of most samples


class _Calibrator(FloatTracer):
    """A tracer that keeps values of every activation on its way.

    It sees the float network: batch norms only know the statistics of that one, and
    behind narrow kernels they would shrink what comes after.

    Args:
      model: The model; its inputs have their steps.
      num_batches: Number of batches to come.
    """

    def __init__(self, model: KerasModel, num_batches: int) -> None:
        self._model = model
        self._inputs = {id(grid) for grid in input_grids(model)}
        self._num_batches = num_batches
        # Every tensor on a grid, in the order of a pass: the grid, and values.
        self._tensors: list[tuple[LearnedGrid, list[Tensor]]] = []
        self._place = -1

    def see(self, batch: Mapping[str, np.ndarray]) -> None:
        """Passes a batch through the model."""
        self._place = -1
        with tracing(self):
            self._model(each(tf.convert_to_tensor, alone(batch)), training=False)

    def activation(self, quantizer: LearnedGrid, x: Tensor) -> Tensor:
        self._place += 1
        if self._place == len(self._tensors):
            self._tensors.append((quantizer, []))
        self._tensors[self._place][1].append(sample_values(x, self._num_batches))
        return x

    def set_steps(self) -> None:
        """Sets the steps of every grid but those of inputs.

        A grid that several tensors share reaches as far as the widest needs.
        """
        grids = {id(grid): grid for grid, _ in self._tensors}
        tensors: dict[int, list[Tensor]] = {}
        for grid, parts in self._tensors:
            tensors.setdefault(id(grid), []).append(tf.concat(parts, axis=0))
        for key, grid in grids.items():
            if key not in self._inputs:
                grid.set_from(tensors[key])


def calibrate(model: KerasModel, samples: Any) -> None:
    """Sets the steps of all activations to fit some samples; labels are not needed.

    They fit what the tensors are without any quantization, whatever the policy.
    Training does this by itself on its first batches; call this to evaluate or export
    without training, or to start training from more samples. A few hundred, drawn at
    random, are enough. A few samples (one of 20 at most) whose values are more than 16
    times as large as those of all others set no steps, and a warning says so.

    Warns in one sentence if samples lie outside of what an input's grid can hold:
    below 0 where there are no such levels, or beyond the range that it was set for.

    Args:
      model: A multi-bitwidth model, or its trainer.
      samples: A batch for the model's input, ``[num_samples, ...]``, float; or a list
        of batches, of any lengths. For several inputs a batch is a mapping of arrays
        by their names, or a list of arrays in their order.

    Raises:
      DataError: If the samples do not fit the model's inputs, are not finite, or so
        small that they count as zero.
      ModelError: If the model has no multi-bitwidth quantizers.
    """
    policy_setter(model)  # refuses a model without quantizers
    model = wrapper.multi_bit_network(model)
    batches = _batches(model, samples)
    warn_of_range(model, batches, "it is set anew")
    limits: dict[str, float] = {}
    for grid in input_grids(model):
        own = [one[grid.entry] for one in batches]
        clean, limits[grid.entry] = _without_dirty(own)
        tensors = map(tf.convert_to_tensor, clean)
        values = tf.concat([sample_values(one, len(clean)) for one in tensors], axis=0)
        grid.set_from([values])
    calibrator = _Calibrator(model, len(batches))
    for batch in batches:
        # As the device does, or one dirty pixel would reach every tensor behind it.
        clipped = {
            name: np.clip(batch[name], -limit, limit) for name, limit in limits.items()
        }
        calibrator.see({**batch, **clipped})
    calibrator.set_steps()
    _CALIBRATIONS[model] = _record(batches)
    _INPUTS[model] = {
        name: InputInfo.of(np.concatenate([one[name] for one in batches]))
        for name in batches[0]
    }


def _batches(model: KerasModel, samples: Any) -> list[dict[str, np.ndarray]]:
    """Returns checked batches by input, of a size that memory holds."""
    first = as_batch(model, samples)
    given = [samples] if first is None else [first]
    if first is None and isinstance(samples, list | tuple):
        parts = [as_batch(model, one) for one in samples]
        given = given if None in parts else parts
    batches: list[dict[str, np.ndarray]] = []
    quantized = {grid.entry for grid in input_grids(model)}
    for one in given:
        batch = as_batch(model, one)
        if batch is None or not num_rows(batch):
            raise DataError(
                f"Expected {expected_samples(model)}, got {_shown(one)}; pass a batch, "
                "or a list of batches."
            )
        for name in quantized:
            check_no_bytes(batch[name])
            batch[name] = batch[name].astype(np.float32)
            check_finite_samples(batch[name])
        batches.append(batch)
    if not batches:
        raise DataError("Expected a batch of samples, got an empty list; pass samples.")
    sizes = {
        str({name: one.shape[1:] for name, one in part.items()}) for part in batches
    }
    if len(sizes) > 1:
        raise DataError(
            "Expected batches of samples of one size, got "
            f"{' and '.join(sorted(sizes))}; resize them, or cut them to one."
        )
    # In one piece, so that they are the same in many.
    whole = {
        name: np.concatenate([one[name] for one in batches]) for name in batches[0]
    }
    for name in quantized:
        _check_size(whole[name])
    number = -(-num_rows(whole) // _BATCH_SIZE)
    parts = {name: np.array_split(array, number) for name, array in whole.items()}
    return [{name: parts[name][place] for name in parts} for place in range(number)]


def _check_size(array: np.ndarray) -> None:
    """Warns of samples that are all zero; refuses what counts as that."""
    if not array.any():
        warnings.warn(
            "All samples are zero, which tells nothing of their range: steps are those "
            "of a largest magnitude of 1; calibrate again on samples that are not.",
            MatarWarning,
            stacklevel=4,
        )
    check_magnitude(array)


def _shown(samples: Any) -> str:
    """Returns what came in the place of a batch, as part of a sentence."""
    if isinstance(samples, Mapping):
        shapes = {name: np.shape(samples[name]) for name in samples}
        return f"a mapping of the shapes {shapes}"
    return str(_shape(samples))


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


def calibration_inputs(model: KerasModel) -> dict[str, InputInfo]:
    """Returns what the samples were that `calibrate` last saw in this process.

    Returns:
      Of each input by its name; nothing if it saw none.
    """
    return dict(_INPUTS.get(wrapper.multi_bit_network(model), {}))


_INPUTS: weakref.WeakKeyDictionary[Any, dict[str, InputInfo]] = (
    weakref.WeakKeyDictionary()
)
_CALIBRATIONS: weakref.WeakKeyDictionary[Any, dict[str, Any]] = (
    weakref.WeakKeyDictionary()
)


def _record(batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    number = sum(map(num_rows, batches))
    digest = hashlib.sha256()
    for name in batches[0]:
        parts = [one[name] for one in batches]
        shape = number, *parts[0].shape[1:]
        named = f"{len(name)} {name} " if len(batches[0]) > 1 else ""
        digest.update(f"{named}{parts[0].dtype}{shape}".encode())
        for batch in parts:
            digest.update(np.ascontiguousarray(batch).tobytes())
    return {
        "calibration_digest": digest.hexdigest(),
        "calibration_samples": number,
    }
