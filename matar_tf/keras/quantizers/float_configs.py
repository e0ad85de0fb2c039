"""The tfmot QuantizeConfig of layers that stay in float."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matar_tf.keras._compat import keras
from matar_tf.keras.quantizers.configs import (
    MatarQuantizeConfig,
    checked_widths,
    float_kernels,
)
from matar_tf.keras.quantizers.weights import WeightQuantizer
from matar_tf.layer_kinds import KernelLayout
from matar_tf.policy import ALL_BITS
from matar_tf.scales import FREE

__all__ = ["FloatQuantizeConfig"]


@keras.utils.register_keras_serializable(package="matar_tf")
class FloatQuantizeConfig(MatarQuantizeConfig):
    """Makes the kernels of a layer that stays in float multi-bitwidth.

    Biases and all else stay as they are. Entries are named after the layer, or
    ``layer/kernel`` and so on where it has several kernels.

    Args:
      kernel_bits: Allowed widths of each kernel, in the order of `float_kernels`.
      per_channel: Whether each output channel of a kernel has a step of its own; a
        table of which rows are looked up has one in all.
      scale: Which steps there are: ``free`` ones, or ``power_of_two``.
    """

    is_float = True

    def __init__(
        self,
        kernel_bits: Sequence[Sequence[int]],
        *,
        per_channel: bool = True,
        scale: str = FREE,
    ) -> None:
        super().__init__(quantize_output=False, per_channel=per_channel, scale=scale)
        self.kernel_bits = [checked_widths("kernel_bits", one) for one in kernel_bits]

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """Returns the kernels."""
        self.multi_bit_quantizers = []
        pairs: list[tuple[Any, Any]] = []
        kernels = float_kernels(layer)
        for (name, one), bits in zip(kernels.items(), self.kernel_bits, strict=True):
            quantizer = WeightQuantizer(
                bits or ALL_BITS,
                one.num_channel_axes,
                is_transposed=one.is_transposed,
                per_channel=self.per_channel and one.layout is not KernelLayout.TABLE,
                scale=self.scale,
            )
            quantizer.suffix = "" if len(kernels) == 1 else f"/{name}"
            quantizer.name_in_layer = name.replace("/", "_")
            self.multi_bit_quantizers.append(quantizer)
            holder, attribute = _holder(layer, one.attribute)
            weight = getattr(holder, attribute)
            pairs.append((weight, quantizer.observe(weight)))
        return pairs

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Puts quantized tensors where the layer looks for its kernels."""
        for one, weight in zip(
            float_kernels(layer).values(), quantize_weights, strict=True
        ):
            setattr(*_holder(layer, one.attribute), weight)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "kernel_bits": [bits and list(bits) for bits in self.kernel_bits],
            "per_channel": self.per_channel,
            **({} if self.scale == FREE else {"scale": self.scale}),
        }


def _holder(layer: Any, path: str) -> tuple[Any, str]:
    """Returns what holds an attribute, and its name there."""
    *above, attribute = path.split(".")
    for one in above:
        layer = getattr(layer, one)
    return layer, attribute
