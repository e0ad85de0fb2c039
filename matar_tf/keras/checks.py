"""Checks that a quantized model, and samples for it, can be computed with."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from matar_tf.errors import DataError, MatarWarning, ModelError
from matar_tf.keras._compat import KerasModel
from matar_tf.keras.layers import InputQuantize
from matar_tf.keras.quantizers import watch, wrapper
from matar_tf.keras.quantizers.fake_quantize import SMALLEST_MAGNITUDE
from matar_tf.keras.quantizers.grids import ActivationGrid, LearnedGrid

_FAR_OUTSIDE = 2.0  # of the range
_MANY = 1.0 / 32.0  # of the values
_MOST_NAMES = 5

__all__ = [
    "as_batch",
    "check_finite_samples",
    "check_finite_weights",
    "check_initialized",
    "check_magnitude",
    "check_no_bytes",
    "expected_samples",
    "input_grids",
    "input_ranges",
    "is_initialized",
    "warn_of_first_batch",
    "warn_of_grids",
    "warn_of_new_grids",
    "warn_of_range",
]


def input_shapes(model: KerasModel) -> dict[str, tuple[int | None, ...]]:
    """Returns the shape of each input of a model, with the batch axis, by name."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in zip(model.input_names, model.inputs, strict=True)
    }


def fits_input(expected: tuple[int | None, ...], shape: tuple[int | None, ...]) -> bool:
    """Returns whether an array of a shape is a batch for an input."""
    return len(shape) == len(expected) and all(
        size in (None, given)
        for size, given in zip(expected[1:], shape[1:], strict=True)
    )


def as_batch(model: KerasModel, samples: object) -> dict[str, np.ndarray] | None:
    """Returns samples by the names of a model's inputs; None if they do not fit them.

    Args:
      model: The model.
      samples: An array for its only input; of several a mapping by their names, or a
        list or tuple of arrays in their order.
    """
    shapes = input_shapes(model)
    given = samples
    if isinstance(samples, list | tuple) and 1 < len(shapes) == len(samples):
        given = dict(zip(shapes, samples, strict=True))
    if not isinstance(given, Mapping) and len(shapes) == 1:
        given = dict.fromkeys(shapes, samples)
    if not isinstance(given, Mapping) or set(given) != set(shapes):
        return None
    try:
        arrays = {name: np.asarray(given[name]) for name in shapes}
    except (TypeError, ValueError):
        return None
    fits = all(fits_input(shapes[one], arrays[one].shape) for one in shapes)
    return arrays if fits and len({len(one) for one in arrays.values()}) == 1 else None


def expected_samples(model: KerasModel) -> str:
    """Returns what samples a model takes, as part of a sentence."""
    shapes = input_shapes(model)
    if len(shapes) == 1:
        return f"samples of shape {next(iter(shapes.values()))}"
    each = ", ".join(f"{name!r}: {shape}" for name, shape in shapes.items())
    return f"a mapping of samples by input, of the shapes {{{each}}}"


def check_finite_samples(samples: ArrayLike) -> None:
    """Refuses samples from which nothing can be estimated.

    Raises:
      DataError: If there is NaN or infinity among them.
    """
    if not np.isfinite(np.asarray(samples, np.float32)).all():
        raise DataError(
            "Expected finite samples, got NaN or infinity as float32; remove or mend "
            "them."
        )


def check_magnitude(samples: ArrayLike) -> None:
    """Refuses samples that would all be quantized to zero.

    Raises:
      DataError: If there are values other than 0, but none of a sufficient size.
    """
    largest = float(np.abs(np.asarray(samples, np.float32)).max(initial=0.0))
    if 0.0 < largest < SMALLEST_MAGNITUDE:
        raise DataError(
            f"Expected samples of a magnitude of {SMALLEST_MAGNITUDE:g} or more, got "
            f"{largest:.3g} at most, which counts as zero; scale the samples."
        )


def check_no_bytes(samples: np.ndarray) -> None:
    """Refuses unsigned bytes, which are 0..1 in one place and 0..255 in another.

    Raises:
      DataError: If the samples are such.
    """
    if samples.dtype == np.uint8:
        raise DataError(
            "Expected floats as in training, got unsigned bytes, which matar_tf.Data "
            "divides by 255 and Keras does not; pass samples / 255.0, or "
            "samples.astype('float32') if the network takes 0..255."
        )


def input_grids(model: KerasModel) -> list[LearnedGrid]:
    """Returns the grids of a model's inputs; the entry of each is the input's name."""
    return [
        quantizer
        for layer in wrapper.multi_bit_network(model).layers
        if isinstance(layer, InputQuantize)
        for quantizer in layer.multi_bit_quantizers
    ]


def input_ranges(model: KerasModel) -> dict[str, tuple[float, float]]:
    """Returns the least and the largest value of each quantized input, at 8 bits."""
    return {grid.entry: _range(grid) for grid in input_grids(model)}


def warn_of_range(
    model: KerasModel, batches: Sequence[Mapping[str, np.ndarray]], outcome: str
) -> None:
    """Warns in one sentence of samples that an input's grid cannot hold.

    Args:
      model: A multi-bitwidth model.
      batches: Finite samples by input.
      outcome: What comes of another range than that which was set.
    """
    for grid in input_grids(model):
        _warn_of_range(grid, [one[grid.entry] for one in batches], outcome)


def _warn_of_range(
    grid: LearnedGrid, batches: Sequence[np.ndarray], outcome: str
) -> None:
    lowest = min(float(one.min(initial=0.0)) for one in batches)
    highest = max(float(one.max(initial=0.0)) for one in batches)
    low, high = _range(grid)
    if not grid.signed and _share_outside(batches, 0.0, np.inf) > _MANY:
        _warn(_negative(grid.entry, f"values from {lowest:.4g} on"))
    elif watch.has_values(int(grid.initialized.numpy())) and (
        _share_outside(batches, _FAR_OUTSIDE * low, _FAR_OUTSIDE * high) > _MANY
    ):
        _warn(
            f"Expected samples in {low:.4g}..{high:.4g}, the range that the input grid "
            f"of {grid.entry!r} was set for, got {lowest:.4g}..{highest:.4g}; "
            f"{outcome}: scale the samples as before if that is not meant."
        )


def warn_of_first_batch(model: KerasModel, states: Sequence[int]) -> None:
    """Warns in one sentence if the first batch of ``fit`` does not fit the input.

    Args:
      model: A multi-bitwidth model, or its trainer.
      states: ``initialized`` of its `input_grids` before that batch.
    """
    for grid, before in zip(input_grids(model), states, strict=True):
        state = int(grid.initialized.numpy())
        low, high = _range(grid)
        if state & watch.FLAG_NEGATIVE:
            _warn(_negative(grid.entry, "many in the first batch"))
        elif before == watch.SET_STATE != state:
            _warn(
                f"Expected samples that fit {low:.4g}..{high:.4g}, the range that the "
                f"input grid of {grid.entry!r} was set for, got a first batch that "
                "lies outside, or leaves most of it unused; scale the samples as those "
                "for calibrate."
            )


def warn_of_grids(model: KerasModel) -> None:
    """Warns, in one sentence for each kind, of grids that misfit what training saw."""
    for grid in input_grids(model):
        if int(grid.initialized.numpy()) & watch.FLAG_NEGATIVE:
            _warn(_negative(grid.entry, "many in training"))
    doubtful = [
        repr(grid.entry)
        for grid in _learned_grids(model)
        if watch.has_doubts(int(grid.initialized.numpy()))
    ]
    if doubtful:
        more = len(doubtful) - _MOST_NAMES
        names = ", ".join(doubtful[:_MOST_NAMES])
        _warn(
            "Expected grids that fit what training saw, but in its last batches many "
            f"values of {names}{f' and {more} more' if more > 0 else ''} saturated, or "
            "most levels were unused; train longer, or call matar_tf.calibrate(model, "
            "samples)."
        )


def warn_of_new_grids(model: KerasModel) -> None:
    """Warns in one sentence if training set the grid of an input anew, once.

    Grids behind it are set anew without a word: weights may grow many times.
    """
    for grid in input_grids(model):
        state = int(grid.initialized.numpy())
        if state & watch.FLAG_SET_ANEW:
            grid.initialized.assign(state - watch.FLAG_SET_ANEW)
            _warn(
                f"The input grid of {grid.entry!r} did not fit most batches and was "
                "set anew in training: their samples are many times smaller or larger "
                "than those that it came from; look at the samples, or calibrate on a "
                "random part of them before."
            )


def _negative(entry: str, found: str) -> str:
    return (
        f"Expected no samples below 0 on the unsigned input grid of {entry!r}, got "
        f"{found}, which all become 0; call quantize_model with signed_inputs=True, or "
        "scale the samples."
    )


def _learned_grids(model: KerasModel) -> Iterator[LearnedGrid]:
    for layer in wrapper.multi_bit_network(model).layers:
        for quantizer in wrapper.all_quantizers(layer):
            if quantizer.kind == "activations":
                yield quantizer


def _range(grid: LearnedGrid) -> tuple[float, float]:
    """Returns the least and the largest value of the widest width."""
    step = float(grid.all_steps()[-1])
    lows, highs = grid.ranges()
    return lows[-1] * step, highs[-1] * step


def _share_outside(batches: Sequence[np.ndarray], low: float, high: float) -> float:
    """Returns the share of values outside of a range among those that are not 0."""
    outside = sum(int(np.sum((one < low) | (one > high))) for one in batches)
    return outside / max(sum(map(np.count_nonzero, batches)), 1)


def _warn(message: str) -> None:
    warnings.warn(message, MatarWarning, stacklevel=3)


def check_finite_weights(model: KerasModel) -> None:
    """Refuses a model that nothing can be computed with.

    Raises:
      ModelError: If there is NaN or infinity among its weights.
    """
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise ModelError(
                f"Expected finite weights, got NaN or infinity in {weight.name!r}: "
                "training diverged, or saw samples that are not finite; train again, "
                "in smaller steps or on mended samples."
            )


def is_initialized(model: KerasModel) -> bool:
    """Returns whether every activation of a model, or of a trainer's, has its steps."""
    return _uninitialized(model) is None


def check_initialized(model: KerasModel) -> None:
    """Checks that every activation of a model, or of a trainer's, has its steps.

    Raises:
      ModelError: If one has not.
    """
    quantizer = _uninitialized(model)
    if quantizer is not None:
        raise ModelError(
            f"Expected trained activation ranges, but {quantizer.entry!r} has seen no "
            "samples; train the model or call matar_tf.calibrate(model, samples)."
        )


def _uninitialized(model: KerasModel) -> ActivationGrid | None:
    for layer in wrapper.multi_bit_network(model).layers:
        quantizer = wrapper.output_quantizer(layer)
        if quantizer is not None and not int(quantizer.initialized.numpy()):
            return quantizer
    return None
