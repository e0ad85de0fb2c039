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
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matar_tf.keras import layers
    from matar_tf.keras.quantizers import derived, learned

__all__ = ["Tracer", "active_tracer", "tracing"]

_STATE = threading.local()


class Tracer(Protocol):
    """Replaces what quantizers and batch norms compute."""

    def weights(self, quantizer: learned.WeightQuantizer, x: Any) -> Any:
        """Returns the kernel that the layer is to use."""
        ...

    def bias(self, quantizer: derived.BiasQuantizer, x: Any) -> Any:
        """Returns the bias that the layer is to use."""
        ...

    def activation(self, quantizer: learned.ActivationQuantizer, x: Any) -> Any:
        """Returns the quantized activation."""
        ...

    def fixed_grid(self, quantizer: derived.FixedGridQuantizer, x: Any) -> Any:
        """Returns an activation whose grid TFLite fixes."""
        ...

    def input_grid(
        self,
        quantizer: derived.MeanQuantizer
        | derived.PoolQuantizer
        | derived.ReluQuantizer,
        x: Any,
    ) -> Any:
        """Returns an activation on the grid of the input that it was computed from."""
        ...

    def batch_norm(self, layer: layers.MultiBitBatchNormalization, x: Any) -> Any:
        """Returns the normalised activation."""
        ...


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
