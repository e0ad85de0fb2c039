"""What a pass through a quantized model does beside plain fake quantization.

The same Keras layers serve four purposes: training and evaluation (no tracer), and
passes that read or replace values: calibration, and the graphs handed to the TFLite
converter. While a `Tracer` is active in this thread, quantizers and batch norms
hand their tensors to it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from matar_tf.keras._compat import Tensor
from matar_tf.keras.quantizers.grids import (
    ActivationGrid,
    BiasGrid,
    FoldedNorm,
    InputGrid,
    KernelGrid,
    LearnedGrid,
)

__all__ = ["FloatTracer", "Tracer", "active_tracer", "tracing"]

_STATE = threading.local()


class Tracer:
    """Replaces what quantizers and batch norms compute; by itself, it evaluates."""

    def weights(self, quantizer: KernelGrid, x: Tensor) -> Tensor:
        """Returns the kernel that the layer is to use."""
        return quantizer.fake_quantize(x)

    def bias(self, quantizer: BiasGrid, x: Tensor) -> Tensor:
        """Returns the bias that the layer is to use."""
        return quantizer.snap(x)

    def activation(self, quantizer: LearnedGrid, x: Tensor) -> Tensor:
        """Returns the quantized activation."""
        return quantizer.fake_quantize(x)

    def fixed_grid(self, quantizer: ActivationGrid, x: Tensor) -> Tensor:
        """Returns an activation whose grid TFLite fixes."""
        return quantizer.fake_quantize(x)

    def input_grid(self, quantizer: InputGrid, x: Tensor) -> Tensor:
        """Returns an activation on the grid of the input that it was computed from."""
        return quantizer.round_to_grid(x)

    def batch_norm(self, layer: FoldedNorm, x: Tensor) -> Tensor:
        """Returns the normalised activation."""
        return layer.evaluate(x)


class FloatTracer(Tracer):
    """Computes the network without any quantization, with folded batch norms."""

    def weights(self, quantizer: KernelGrid, x: Tensor) -> Tensor:
        """Returns the kernel as it is."""
        return x

    def bias(self, quantizer: BiasGrid, x: Tensor) -> Tensor:
        """Returns the bias as it is."""
        return x

    def activation(self, quantizer: LearnedGrid, x: Tensor) -> Tensor:
        """Returns the activation as it is."""
        return x

    def fixed_grid(self, quantizer: ActivationGrid, x: Tensor) -> Tensor:
        """Returns the activation as it is."""
        return x

    def input_grid(self, quantizer: InputGrid, x: Tensor) -> Tensor:
        """Returns the activation as it is."""
        return x

    def batch_norm(self, layer: FoldedNorm, x: Tensor) -> Tensor:
        """Returns the activation times the scale, plus the offset."""
        scale, offset = layer.folded()
        return x * scale + offset


def active_tracer() -> Tracer | None:
    """Returns the tracer of this thread, or None."""
    return getattr(_STATE, "tracer", None)


@contextlib.contextmanager
def tracing(tracer: Tracer) -> Iterator[None]:
    """Makes `tracer` active in this thread until the block ends."""
    previous = active_tracer()
    _STATE.tracer = tracer
    try:
        yield
    finally:
        _STATE.tracer = previous
