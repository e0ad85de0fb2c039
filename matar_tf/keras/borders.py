"""Keras layers between the integer part of a network and layers that stay in float.

Integer layers read tensors on grids alone, and float layers float tensors; so one of
these stands wherever a tensor goes from one to the other, as DEQUANTIZE and QUANTIZE do
in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matar_tf.keras._compat import Shape, Tensor, in_keras_format, keras, tf, tfmot
from matar_tf.keras.quantizers.learned import ActivationQuantizer
from matar_tf.policy import ALL_BITS
from matar_tf.scales import FREE

__all__ = ["Dequantize", "FloatWrapper", "Quantize"]

_KERAS_FORMAT = (
    "Expected the path of an HDF5 file ('x.h5'), of a SavedModel directory, or of a "
    "TensorFlow checkpoint, got the Keras v3 format ('.keras', '.weights.h5'; also "
    "that of copy.deepcopy and pickle), from which tfmot's quantization wrappers "
    "cannot be rebuilt; save to one of the others, and copy a model by "
    "tf_keras.models.clone_model(model) and set_weights(model.get_weights())."
)


class _RefusesKerasFormat:
    """Stops `model.save("x.keras")` with the reason, before the file is begun.

    tfmot's wrapper cannot be rebuilt from a ``.keras`` file: the file stores
    variables per tracked object, and the wrapper tracks those of its inner layer a
    second time. Every multi-bitwidth model holds an `InputQuantize`, so refusing here
    refuses the model.
    """

    def get_config(self) -> dict[str, Any]:
        """Returns the config.

        Raises:
          NotImplementedError: If it is for a ``.keras`` file, not begun yet.
        """
        if in_keras_format():
            raise NotImplementedError(_KERAS_FORMAT)
        config: Any = super()
        return config.get_config()

    def save_own_variables(self, store: Any) -> None:
        """Raises; called only while a ``.weights.h5`` file is written.

        Raises:
          NotImplementedError: Always.
        """
        raise NotImplementedError(_KERAS_FORMAT)


@keras.utils.register_keras_serializable(package="matar_tf")
class Quantize(_RefusesKerasFormat, keras.layers.Layer):
    """Quantizes what a float layer makes, for the integer layers that read it.

    Args:
      entry: Name of the policy entry: that of the float layer.
      bits: Allowed widths, ascending.
      signed: Whether the tensor has values below 0.
      scale: Which steps there are: ``free`` ones, or ``power_of_two``.
    """

    def __init__(
        self,
        entry: str,
        bits: Sequence[int] = ALL_BITS,
        signed: bool = True,
        scale: str = FREE,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.entry = entry
        self.multi_bit_quantizers = (self._make_quantizer(bits, signed, scale),)
        self._variables: dict[str, Tensor] = {}

    def _make_quantizer(
        self, bits: Sequence[int], signed: bool, scale: str
    ) -> ActivationQuantizer:
        return ActivationQuantizer(bits, signed, scale=scale)

    def build(self, input_shape: Shape) -> None:
        """Creates the quantizer's variables."""
        self._variables = self.multi_bit_quantizers[0].build(input_shape, "input", self)
        super().build(input_shape)

    def call(self, inputs: Tensor, training: Any = None) -> Tensor:
        """Returns the tensor on its grid, as float32."""
        if training is None:
            training = keras.backend.learning_phase()
        inputs = tf.cast(inputs, tf.float32)  # numbers of another kind, maybe
        return self.quantized(inputs, training)

    def quantized(self, x: Tensor, training: Any) -> Tensor:
        """Returns a tensor on the grid."""
        return self.multi_bit_quantizers[0](x, bool(training), weights=self._variables)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        quantizer = self.multi_bit_quantizers[0]
        return {
            **super().get_config(),
            "entry": self.entry,
            "bits": list(quantizer.bits),
            "signed": quantizer.signed,
            # Layers of earlier versions have no scale, and stay as they were.
            **({} if quantizer.scale == FREE else {"scale": quantizer.scale}),
        }


@keras.utils.register_keras_serializable(package="matar_tf")
class Dequantize(_RefusesKerasFormat, keras.layers.Layer):
    """Hands a tensor on a grid to float layers; it changes nothing."""

    def call(self, inputs: Tensor) -> Tensor:
        """Returns the tensor."""
        return tf.identity(inputs)


@keras.utils.register_keras_serializable(package="matar_tf")
class FloatWrapper(tfmot.quantization.keras.QuantizeWrapperV2):
    """Wraps a layer that stays in float and has kernels.

    As tfmot's wrapper, but such layers read several tensors, and masks.
    """

    def __init__(self, layer: Any, quantize_config: Any, **kwargs: Any) -> None:
        super().__init__(layer, quantize_config, **kwargs)
        self.supports_masking = layer.supports_masking

    def build_from_config(self, config: Any) -> None:
        """Leaves building to the first call, which alone says all that is read."""

    def __call__(self, inputs: Any, *others: Any, **kwargs: Any) -> Any:
        """Returns what `call` does.

        Arguments get the layer's names, by which alone Keras writes them down. The
        layer has its kernels before: some, such as `MultiHeadAttention`, make them when
        they are called.
        """
        names = self.layer._call_spec.arg_names
        given = {**dict(zip(names[1:], others, strict=False)), **kwargs}
        if not self.layer.inbound_nodes:
            first, named = tf.nest.map_structure(_like, (inputs, given))
            self.layer(first, **named)
        wrapper: Any = super()
        return wrapper.__call__(inputs, **given)

    def call(self, inputs: Tensor, training: Any = None, **kwargs: Any) -> Any:
        """Returns what the layer makes with its kernels on their grids."""
        names = self.layer._call_spec.arg_names
        given = {name: one for name, one in kwargs.items() if name in names}
        return super().call(inputs, training=training, **given)

    def compute_mask(self, inputs: Tensor, mask: Any = None) -> Any:
        """Returns the mask of what the layer makes."""
        return self.layer.compute_mask(inputs, mask)


def _like(value: Any) -> Any:
    """Returns an input for a tensor of the network, and other values as they are."""
    is_tensor = hasattr(value, "_keras_history")
    return keras.Input(type_spec=value.type_spec) if is_tensor else value
