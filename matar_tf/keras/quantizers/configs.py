"""tfmot QuantizeConfigs that give layers multi-bitwidth quantizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from matar_tf.errors import ModelError
from matar_tf.keras._compat import APPLICATION_CLASSES, keras, tf, tfmot
from matar_tf.keras.quantizers.derived import (
    INPUT_GRID_QUANTIZERS,
    BiasQuantizer,
    FixedGridQuantizer,
    SharedGridQuantizer,
)
from matar_tf.keras.quantizers.learned import ActivationQuantizer, MultiBitQuantizer
from matar_tf.keras.quantizers.own_kinds import own_kind_of
from matar_tf.keras.quantizers.weights import WeightQuantizer
from matar_tf.layer_kinds import (
    ACTIVATIONS,
    GRID_OF,
    LAYER_KINDS,
    KernelStorage,
    Rounding,
    rounding_of,
)
from matar_tf.operators import Grid
from matar_tf.policy import ALL_BITS
from matar_tf.scales import FREE, check_scale

__all__ = [
    "MatarQuantizeConfig",
    "activation_name",
    "checked_widths",
    "class_of",
    "float_kernels",
    "has_known_activation",
    "kernel_attribute",
    "kind_of",
    "variable_name",
]

_QuantizeConfig: Any = tfmot.quantization.keras.QuantizeConfig
_SAVED_GRIDS = (Grid.INPUT.value, Grid.FIXED.value)
_OURS = "matar_tf>"  # before the registered names of our classes


def class_of(kind: str) -> Any:
    """Returns the Keras class of a layer kind."""
    if LAYER_KINDS[kind].is_ours:
        return keras.utils.get_custom_objects()[f"{_OURS}{kind}"]
    return APPLICATION_CLASSES.get(kind) or getattr(keras.layers, kind)


def kind_of(layer: Any) -> str:
    """Returns the name of a layer's class, with its module if it is not the known one.

    A subclass is of a kind of its own.
    """
    name = type(layer).__name__
    if own_kind_of(layer) is not None:
        return name
    if name not in LAYER_KINDS or type(layer) is class_of(name):
        return name
    return f"{type(layer).__module__}.{name}"


def variable_name(variable: Any) -> str:
    """Returns the name of a variable inside its layer."""
    return str(variable.name).rsplit("/", 1)[-1].split(":")[0]


def activation_name(layer: Any) -> str:
    """Returns the name of a layer's activation function; ``linear`` for none."""
    row = LAYER_KINDS.get(kind_of(layer))
    if row is not None and row.activation:
        return row.activation
    activation = getattr(layer, "activation", None)
    if activation is None:
        return "linear"
    name = getattr(activation, "__name__", None)
    return name if name is not None else type(activation).__name__


def has_known_activation(layer: Any) -> bool:
    """Whether a layer's activation function is the one that its name says."""
    activation, name = getattr(layer, "activation", None), activation_name(layer)
    known = [getattr(home, name, None) for home in (keras.activations, tf.nn)]
    return activation is None or any(activation is one for one in known)


def kernel_attribute(layer: Any) -> str | None:
    """Returns the name of the attribute that holds a layer's kernel, or None."""
    row = LAYER_KINDS.get(kind_of(layer))
    return row.kernel.attribute if row is not None and row.kernel is not None else None


def float_kernels(layer: Any) -> dict[str, KernelStorage]:
    """Returns the kernels that are quantized where a layer stays in float.

    Returns:
      How each is stored, its attribute a path from the layer; by the path by which
      policies name it where there are several.
    """
    row = LAYER_KINDS.get(kind_of(layer))
    if row is None or row.is_constant:
        return {}
    own = row.float_kernels or ((row.kernel,) if row.kernel is not None else ())
    found = {one.attribute: one for one in own}
    for holder in row.inner:
        below = float_kernels(getattr(layer, holder))
        part = holder.strip("_").removesuffix("_dense")
        prefix = "" if len(row.inner) == 1 else f"{part}/"
        for name, one in below.items():
            path = f"{holder}.{one.attribute}"
            found[prefix + name] = replace(one, attribute=path)
    return found


def checked_widths(name: str, widths: Sequence[int] | None) -> tuple[int, ...] | None:
    """Returns widths as a tuple, or None for None.

    Raises:
      ModelError: If they are not ascending, each in 2..8.
    """
    if widths is None:
        return None
    given = tuple(widths) if isinstance(widths, Iterable) else ()
    if not given or given != tuple(sorted(set(given) & set(ALL_BITS))):
        raise ModelError(
            f"Expected ascending widths in {ALL_BITS[0]}..{ALL_BITS[-1]} as {name}, "
            f"got {widths!r}."
        )
    return tuple(int(bits) for bits in given)


@keras.utils.register_keras_serializable(package="matar_tf")
class MatarQuantizeConfig(_QuantizeConfig):
    """Makes a layer multi-bitwidth: use with ``quantize_annotate_layer``.

    An adapter around another tfmot QuantizeConfig: what `inner` quantizes at one
    width, this quantizes at each width of `weight_bits` and `activation_bits`.
    Without `inner` it quantizes the kernel of a convolution or dense layer, and the
    layer's output; the bias is rounded to the integer accumulator's grid.

    Compares by identity: Keras would rebuild two equal configs of a saved model as one
    object, and with it their quantizers.

    Policy entries are named after the layer; where `inner` quantizes several weights
    or activations, the further ones are named ``layer/attribute``.

    Args:
      inner: Config whose quantizers are replaced, or None.
      weight_bits: Allowed widths of weights, ascending, each in 2..8; None for those
        of the model's default `PolicySpace`, 2..8 without one.
      activation_bits: Allowed widths of activations, likewise.
      quantize_output: Whether the layer's output is quantized; only without `inner`.
        ``"input_grid"`` rounds onto the grid of the layer's input (average pooling, a
        global one that shares its input's grid, a ReLU that no other operation
        computes),
        ``"fixed_grid"`` onto the one that TFLite fixes (sigmoid, tanh, softmax),
        ``"grid_of:name"`` onto the one that the layer `name` owns (concatenation).
      signed: Whether activations have values below 0; None asks the layer's own
        activation function.
      per_channel: Whether each output channel of the weights has a step of its own.
        If not, one step serves the whole kernel, as some accelerators want it, and a
        batch norm right after the layer is folded into it once and for all.
      scale: Which steps there are: ``free`` ones, or ``power_of_two``; those of the
        whole network, as `quantize_model` says.

    Raises:
      ModelError: If an argument is not of these.
    """

    def __init__(
        self,
        inner: Any = None,
        *,
        weight_bits: Sequence[int] | None = None,
        activation_bits: Sequence[int] | None = None,
        quantize_output: bool | str = True,
        signed: bool | None = None,
        per_channel: bool = True,
        scale: str = FREE,
    ) -> None:
        if not isinstance(quantize_output, bool) and not (
            str(quantize_output) in _SAVED_GRIDS
            or str(quantize_output).startswith(GRID_OF)
        ):
            raise ModelError(
                f"Expected True, False, {_SAVED_GRIDS[0]!r}, {_SAVED_GRIDS[1]!r} or "
                f"'{GRID_OF}name' as quantize_output, got {quantize_output!r}."
            )
        self.inner = inner
        self.weight_bits = checked_widths("weight_bits", weight_bits)
        self.activation_bits = checked_widths("activation_bits", activation_bits)
        self.quantize_output = quantize_output
        self.signed = signed
        self.per_channel = per_channel
        self.scale = check_scale(scale, ModelError)
        self.multi_bit_quantizers: list[MultiBitQuantizer] = []
        self.grid: Any = None  # quantizer of the output that has no bank of its own

    def entries(self, layer: Any) -> list[tuple[str, str, tuple[int, ...]]]:
        """Returns the policy entries that a built layer gets under this config.

        Returns:
          ``("weights" or "activations", name, widths)`` for each.
        """
        probe = type(self).from_config(self.get_config())
        probe.get_weights_and_quantizers(layer)
        probe.get_activations_and_quantizers(layer)
        probe.get_output_quantizers(layer)
        return [
            (quantizer.kind, f"{layer.name}{quantizer.suffix}", quantizer.bits)
            for quantizer in probe.multi_bit_quantizers
        ]

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """Returns the kernel (or what `inner` names) and, last, the bias."""
        self.multi_bit_quantizers = []
        pairs = [
            (weight, self._weight_quantizer(weight, layer))
            for weight in self._weights(layer)
        ]
        if self._has_bias(layer):
            pairs.append((layer.bias, BiasQuantizer()))
        return pairs

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """Returns the activations that `inner` names, each with its quantizer."""
        if self.inner is None:
            return []
        return [
            (activation, self._activation_quantizer(layer))
            for activation, _ in self.inner.get_activations_and_quantizers(layer)
        ]

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """Returns the quantizer of the layer's output, if it has one."""
        if self.inner is not None:
            outputs = self.inner.get_output_quantizers(layer)
            return [self._activation_quantizer(layer) for _ in outputs]
        self.grid = None
        if self.quantize_output == Grid.INPUT.value:
            rounding = rounding_of(kind_of(layer), activation_name(layer))
            rounding = rounding or Rounding.POOL
            return [INPUT_GRID_QUANTIZERS[rounding]()]
        if self.quantize_output == Grid.FIXED.value:
            row = ACTIVATIONS.get(activation_name(layer))
            signed = row is not None and not row.is_nonnegative
            self.grid = FixedGridQuantizer(signed=signed)
        elif isinstance(self.quantize_output, str):
            owner = self.quantize_output.removeprefix(GRID_OF)
            self.grid = SharedGridQuantizer(owner)
        elif self.quantize_output:
            return [self._activation_quantizer(layer)]
        return [] if self.grid is None else [self.grid]

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Puts quantized tensors where the layer looks for its weights."""
        weights = list(quantize_weights)
        if self._has_bias(layer):
            layer.bias = weights.pop()
        if self.inner is not None:
            self.inner.set_quantize_weights(layer, weights)
        elif weights:
            setattr(layer, str(kernel_attribute(layer)), weights[0])

    def set_quantize_activations(
        self, layer: Any, quantize_activations: list[Any]
    ) -> None:
        """Puts quantized activations where the layer looks for them."""
        if self.inner is not None:
            self.inner.set_quantize_activations(layer, quantize_activations)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        inner = self.inner and keras.utils.legacy.serialize_keras_object(self.inner)
        return {
            "inner": inner,
            "weight_bits": self.weight_bits and list(self.weight_bits),
            "activation_bits": self.activation_bits and list(self.activation_bits),
            "quantize_output": self.quantize_output,
            "signed": self.signed,
            "per_channel": self.per_channel,
            # Configs of earlier versions have no scale, and stay as they were.
            **({} if self.scale == FREE else {"scale": self.scale}),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> MatarQuantizeConfig:
        """Returns a config made from what `get_config` returned."""
        arguments = dict(config)
        if arguments.get("inner"):
            with tfmot.quantization.keras.quantize_scope():
                arguments["inner"] = keras.utils.legacy.deserialize_keras_object(
                    arguments["inner"]
                )
        return cls(**arguments)

    def _weights(self, layer: Any) -> list[Any]:
        if self.inner is not None:
            return [w for w, _ in self.inner.get_weights_and_quantizers(layer)]
        attribute = kernel_attribute(layer)
        return [] if attribute is None else [getattr(layer, attribute)]

    def _has_bias(self, layer: Any) -> bool:
        return kernel_attribute(layer) is not None and layer.use_bias

    def _weight_quantizer(self, weight: Any, layer: Any) -> WeightQuantizer:
        if len(weight.shape) < 2:
            raise ModelError(
                f"Expected weights with an output channel axis in layer "
                f"{layer.name!r}, got {weight.name!r} of shape {tuple(weight.shape)}."
            )
        attribute = weight.name.rsplit("/", 1)[-1].split(":")[0]
        row = LAYER_KINDS.get(kind_of(layer))
        storage = None if row is None or self.inner is not None else row.kernel
        quantizer = WeightQuantizer(
            self.weight_bits or ALL_BITS,
            2 if "depthwise" in attribute else 1,
            is_constant=row is not None and row.is_constant,
            is_transposed=storage is not None and storage.is_transposed,
            per_channel=self.per_channel,
            scale=self.scale,
        )
        self._add(quantizer, attribute)
        return quantizer.observe(weight)

    def _activation_quantizer(self, layer: Any) -> ActivationQuantizer:
        row = ACTIVATIONS.get(activation_name(layer))
        signed = row is None or not row.is_nonnegative
        if self.inner is not None and row is not None and not row.is_fused:
            # tfmot quantizes what goes INTO a softmax, sigmoid or tanh of `inner`.
            signed = True
        signed = signed if self.signed is None else self.signed
        bits = self.activation_bits or ALL_BITS
        quantizer = ActivationQuantizer(bits, signed, scale=self.scale)
        self._add(quantizer, "output")
        return quantizer

    def _add(self, quantizer: MultiBitQuantizer, attribute: str) -> None:
        if any(type(other) is type(quantizer) for other in self.multi_bit_quantizers):
            quantizer.suffix = f"/{attribute}"
        self.multi_bit_quantizers.append(quantizer)
