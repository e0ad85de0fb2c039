"""Checks that a quantized model, and samples for it, can be computed with."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from matar_tf.errors import DataError, ModelError
from matar_tf.keras._compat import KerasModel
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.fake_quantize import SMALLEST_MAGNITUDE
from matar_tf.keras.quantizers.grids import ActivationGrid

__all__ = [
    "check_finite_samples",
    "check_finite_weights",
    "check_initialized",
    "check_magnitude",
    "fits_input",
    "is_initialized",
]


def fits_input(model: KerasModel, shape: tuple[int, ...]) -> bool:
    """Returns whether an array of a shape is a batch for a model's only input.

    Raises:
      ModelError: If the model has several inputs.
    """
    if len(model.inputs) > 1:
        raise ModelError(
            f"Expected a model of one input, got {len(model.inputs)} in "
            f"{model.name!r}; the first batch of fit sets the steps of such a model."
        )
    expected = tuple(model.input_shape)
    return len(shape) == len(expected) and all(
        size in (None, given)
        for size, given in zip(expected[1:], shape[1:], strict=True)
    )


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
