"""First steps for the activations of a multi-bitwidth model, from samples."""

from __future__ import annotations

import hashlib
import weakref
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from matar_tf.errors import DataError
from matar_tf.keras._compat import KerasModel, Tensor, tf
from matar_tf.keras.checks import check_finite_samples, check_magnitude, fits_input
from matar_tf.keras.policies import policy_setter
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.grids import LearnedGrid
from matar_tf.keras.quantizers.tracing import FloatTracer, tracing

__all__ = ["calibrate", "calibration_record"]


class _Calibrator(FloatTracer):
    """A tracer that initialises every activation quantizer on its way.

    It sees the float network: batch norms only know the statistics of that one, and
    behind narrow kernels they would shrink what comes after.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def activation(self, quantizer: LearnedGrid, x: Tensor) -> Tensor:
        is_seen, is_silent = id(quantizer) in self._seen, not np.any(x)
        if is_seen and is_silent:
            return x
        before = tf.identity(quantizer.log_steps)
        quantizer.initialize(x)
        if is_seen:
            # A grid that several tensors share must reach as far as the widest needs.
            quantizer.log_steps.assign(tf.maximum(before, quantizer.log_steps))
        if not is_silent:
            self._seen.add(id(quantizer))
        return x


def calibrate(model: KerasModel, samples: ArrayLike) -> None:
    """Sets the steps of all activations to fit some samples; labels are not needed.

    They fit what the tensors are without any quantization, whatever the policy.
    Training does this by itself on its first batch; call this to evaluate or export
    without training, or to start training from more samples than one batch.

    Args:
      model: A multi-bitwidth model, or its trainer.
      samples: A batch for the model's input, ``[num_samples, ...]``, float.

    Raises:
      DataError: If the samples do not fit the model's input, are not finite, or so
        small that they count as zero.
      ModelError: If the model has no multi-bitwidth quantizers, or several inputs.
    """
    policy_setter(model)  # refuses a model without quantizers
    model = wrapper.multi_bit_network(model)
    shape = tuple(np.shape(samples))
    if not fits_input(model, shape) or not shape[0]:
        raise DataError(
            f"Expected samples of shape {tuple(model.input_shape)}, got {shape}; pass "
            "a batch."
        )
    check_finite_samples(samples)
    check_magnitude(samples)
    with tracing(_Calibrator()):
        model.call(
            tf.convert_to_tensor(np.asarray(samples), tf.float32), training=False
        )
    _CALIBRATIONS[model] = _record(np.asarray(samples, np.float32))


def calibration_record(model: KerasModel) -> dict[str, Any]:
    """Returns what `calibrate` last saw for a model in this process, for the record.

    Returns:
      SHA-256 and number of the samples, as float32; nothing if it saw none.
    """
    return dict(_CALIBRATIONS.get(wrapper.multi_bit_network(model), {}))


_CALIBRATIONS: weakref.WeakKeyDictionary[Any, dict[str, Any]] = (
    weakref.WeakKeyDictionary()
)


def _record(samples: np.ndarray) -> dict[str, Any]:
    digest = hashlib.sha256(f"{samples.dtype}{samples.shape}".encode())
    digest.update(np.ascontiguousarray(samples).tobytes())
    return {
        "calibration_digest": digest.hexdigest(),
        "calibration_samples": len(samples),
    }
