"""A further call of a layer: the layer's weights, and an output of its own."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from matar_tf.keras._compat import KerasLayer, Shape, Tensor, keras
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import MatarQuantizeConfig
from matar_tf.keras.quantizers.derived import BiasQuantizer

__all__ = ["SharedLayer"]


@keras.utils.register_keras_serializable(package="matar_tf")
class SharedLayer(keras.layers.Layer):
    """Calls another layer of the network once more.

    It has no weights but the steps of its own output: kernel and bias, and the bank of
    the kernel's steps, are those of the other layer. That is where its last input comes
    from, which it does not read: so the other layer is known wherever Keras puts the
    network together, from a file or as a clone, and before this one.

    Args:
      entry: Name of the call, also of the policy entry of its output.
      config: Arguments of the `MatarQuantizeConfig` by which its output is quantized;
        None if the layer is not quantized.
    """

    def __init__(
        self, entry: str, config: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.entry = entry
        self.quantize_config = (
            None if config is None else MatarQuantizeConfig.from_config(config)
        )
        self._owner: Any = None
        self._bias: Any = None
        self._outputs: list[tuple[Any, Mapping[str, Tensor]]] = []

    @property
    def shared_layer(self) -> KerasLayer:
        """The layer that has the weights, in its wrapper if it is in one."""
        return self if self._owner is None else self._owner()

    def __call__(self, inputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        """Returns what `call` does; remembers the layer while a network is made."""
        if keras.backend.is_keras_tensor(inputs[-1]):
            self._owner = weakref.ref(inputs[-1].node.layer)
        layer: Any = super()
        return layer.__call__(inputs, *args, **kwargs)

    def build(self, input_shape: Sequence[Shape]) -> None:
        """Creates the variables of the output's quantizer, if it has one."""
        if self.quantize_config is not None:
            self._bias = BiasQuantizer()
            self._bias.build((), "bias", self)
            inner = wrapper.inner_layer(self)
            self._outputs = [
                (quantizer, quantizer.build(None, "output", self))
                for quantizer in self.quantize_config.get_output_quantizers(inner)
            ]
        super().build(input_shape)

    def call(self, inputs: Sequence[Tensor], training: Any = None) -> Tensor:
        """Returns what the other layer makes of the first input, quantized."""
        if training is None:
            training = keras.backend.learning_phase()
        is_training = bool(training)
        outputs = self._compute(inputs[0], is_training)
        for quantizer, variables in self._outputs:
            outputs = quantizer(outputs, is_training, weights=variables)
        return outputs

    def _compute(self, inputs: Tensor, is_training: bool) -> Tensor:
        owner = self.shared_layer
        if self._bias is None or not wrapper.is_wrapped(owner):
            return owner(inputs)
        inner = wrapper.inner_layer(owner)
        weights = [
            self._bias(variable, is_training, weights={})
            if isinstance(quantizer, BiasQuantizer)
            else quantizer(variable, is_training, weights=variables)
            for variable, quantizer, variables in owner._weight_vars
        ]
        owner.quantize_config.set_quantize_weights(inner, weights)
        return inner.call(inputs)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        """Returns the shape that the other layer makes of the first input."""
        return wrapper.inner_layer(self).compute_output_shape(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = self.quantize_config
        return {
            **super().get_config(),
            "entry": self.entry,
            "config": None if config is None else config.get_config(),
        }
