"""Turning a float Keras model into a multi-bitwidth one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matar_tf.errors import ModelError
from matar_tf.keras._compat import keras, tf, tfmot
from matar_tf.keras.checks import check_finite_weights
from matar_tf.keras.packaging.trial import trial_refusals
from matar_tf.keras.quantizers import half_precision, wrapper
from matar_tf.keras.quantizers.configs import MatarQuantizeConfig
from matar_tf.keras.rewrite.build import build_model
from matar_tf.keras.rewrite.check import raise_refusals
from matar_tf.keras.rewrite.networks import layers_by_name
from matar_tf.keras.rewrite.plan import Scales
from matar_tf.keras.rewrite.prepare import (
    Prepared,
    as_layers,
    default_space,
    prepare_model,
)
from matar_tf.scales import FREE
from matar_tf.space import PolicySpace

__all__ = [
    "NORM_CONTEXT",
    "MatarQuantizeScheme",
    "policy_space",
    "quantize_model",
]

NORM_CONTEXT = 12  # entries before a layer that its batch norm's statistics follow

_tfmot = tfmot.quantization.keras


class _LayoutTransform(_tfmot.QuantizeLayoutTransform):
    """Lays the model out and gives every layer its MATAR config."""

    def __init__(
        self,
        space: PolicySpace | None,
        configs: Mapping[str, Any],
        signed_inputs: bool,
        norm_context: int,
        scales: Scales,
        strict: bool,
    ) -> None:
        self._options: dict[str, Any] = {
            "space": space,
            "configs": configs,
            "signed_inputs": signed_inputs,
            "norm_context": norm_context,
            "scales": scales,
            "strict": strict,
        }

    def apply(
        self, model: Any, layer_quantize_map: Mapping[str, Mapping[str, Any]]
    ) -> tuple[Any, dict[str, dict[str, Any]]]:
        """Returns the laid-out model and the config of each layer to wrap.

        Raises:
          ModelError: If the model cannot be quantized, or Keras' global policy is not
            float32, which tfmot's wrappers would take over.
        """
        policy = keras.mixed_precision.global_policy().name
        if policy != "float32":
            raise ModelError(
                f"Expected Keras' global policy to be float32, got {policy!r}, which "
                "quantized layers would take over; call matar_tf.quantize_model, which "
                "sees to that, or keras.mixed_precision.set_global_policy('float32')."
            )
        given = {
            name: _own_config(entry.get("quantize_config"))
            for name, entry in layer_quantize_map.items()
        }
        prepared = prepare_model(model, given, are_tried=True, **self._options)
        _try(prepared)
        configs = {
            name: {"quantize_config": one} for name, one in prepared.configs.items()
        }
        return build_model(
            prepared.graph, prepared.originals, again=prepared.again
        ), configs


class _Registry(_tfmot.QuantizeRegistry):
    """Knows no layer: the layout transform has given every layer its config."""

    def supports(self, layer: Any) -> bool:
        """Returns whether tfmot may ask for the config of `layer`: never."""
        return False

    def get_quantize_config(self, layer: Any) -> Any:
        """Raises; tfmot asks only for layers that are supported.

        Raises:
          ModelError: Always.
        """
        raise ModelError(f"Layer {layer.name!r} has no place in the quantization plan.")


class MatarQuantizeScheme(_tfmot.QuantizeScheme):
    """The scheme that makes ``tfmot.quantization.keras.quantize_apply`` multi-bitwidth.

    Args:
      space: Widths of every policy entry; None for `policy_space` of the model.
      configs: What to do with some layers, as for `quantize_model`; the config that a
        layer was annotated with comes first.
      signed_inputs: Whether the network's samples have values below 0; if not, all
        256 levels of the input quantizer serve the positive range.
      norm_context: Number of entries before a layer, the nearest first, by whose
        widths its batch norm keeps statistics apart, beside its own.
      scale: Which scales it has, as for `quantize_model`.
      per_channel: Whether each channel has a step of its own, likewise.
      strict: Whether a layer that would stay in float is an error.

    Raises:
      ModelError: If `norm_context` is below 0, or there is no such `scale`.
    """

    def __init__(
        self,
        space: PolicySpace | None = None,
        *,
        configs: Mapping[str, Any] | None = None,
        signed_inputs: bool = True,
        norm_context: int = NORM_CONTEXT,
        scale: str = FREE,
        per_channel: bool = True,
        strict: bool = False,
    ) -> None:
        self._transform = _LayoutTransform(
            _checked_space(space),
            _own_configs(configs),
            signed_inputs,
            _checked_context(norm_context),
            _scales(scale, space, per_channel=per_channel),
            strict,
        )

    def get_layout_transformer(self) -> _LayoutTransform:
        """Returns the transform that prepares a model; called by tfmot."""
        return self._transform

    def get_quantize_registry(self) -> _Registry:
        """Returns the registry; called by tfmot."""
        return _Registry()


def policy_space(
    model: Any,
    *,
    configs: Mapping[str, Any] | None = None,
    scale: str = FREE,
    per_channel: bool = True,
) -> PolicySpace:
    """Returns the default policy space of a float model.

    Every entry may take 2..8 bits, except the network input, the first and the last
    compute layer, the latter's input and the output, which stay at 8; free them with
    `PolicySpace.with_choices`.

    Args:
      model: A built Functional or Sequential tf_keras model.
      configs: What to do with some layers, as for `quantize_model`.
      scale: Which scales it is to have, likewise; the space says so.
      per_channel: Whether each channel has a step of its own, likewise.

    Raises:
      ModelError: If the model cannot be quantized.
      PolicyError: If a name or pattern of `configs` matches nothing.
    """
    scales = Scales(scale=scale, per_channel=per_channel)
    return default_space(model, _own_configs(configs), scales)


def quantize_model(
    model: Any,
    space: PolicySpace | None = None,
    *,
    configs: Mapping[str, Any] | None = None,
    signed_inputs: bool = True,
    norm_context: int = NORM_CONTEXT,
    scale: str = FREE,
    per_channel: bool = True,
    strict: bool = False,
) -> Any:
    """Returns a multi-bitwidth copy of a float model; trains with plain ``fit``.

    The short form of annotating the whole model with tfmot and applying
    `MatarQuantizeScheme`.

    A layer that no integer kernel computes (a custom one, a Lambda, a layer norm) stays
    in float, as it is; a warning says which, and why.

    Where a layer has one of Keras' mixed policies, its products are of half precision
    in training; see `matar_tf.keras.quantizers.half_precision`.

    Args:
      model: A built Functional or Sequential tf_keras model.
      space: Widths of every policy entry; None for `policy_space` of the model with
        these `configs`.
      configs: A `MatarQuantizeConfig`, or another QuantizeConfig of tfmot, for some
        layers, by name or kind, or pattern of either (``stem``, ``Dense``,
        ``block1_*``, ``*``); later ones win. Layers without one are quantized by
        their kind.
      signed_inputs: Whether the samples have values below 0.
      norm_context: Number of entries before a layer, the nearest first, by whose
        widths its batch norm keeps statistics apart, beside its own.
      scale: ``free``, or ``power_of_two``: all steps of weights and activations are
        powers of two, for hardware that shifts its accumulators. Batch norms are then
        folded once and for all, with the statistics that they have, and levels of n
        bits are stored as they are. A space that says so asks for it as well. Steps of
        16-bit activations are none.
      per_channel: Whether each output channel of weights has a step of its own, but in
        layers whose config says otherwise. If not, one step serves a whole kernel, and
        a batch norm right after it is folded into it.
      strict: Whether a layer that would stay in float is an error, which names it.

    Raises:
      ModelError: If the model cannot be quantized; if `strict`, not wholly; if there
        is no such `scale`; or if what stays in float could not be packaged after the
        training.
      PolicyError: If the space does not fit the model, or a name or pattern of
        `configs` matches nothing.
    """
    space = _checked_space(space)
    norm_context = _checked_context(norm_context)
    own = _own_configs(configs)
    layered = as_layers(model, strict=strict)
    check_finite_weights(model)
    with half_precision.in_float32():
        # Not by tfmot's quantize_apply, which takes layers of one tensor alone.
        prepared = prepare_model(
            layered,
            {
                layer.name: None
                for layer in layered.layers
                if not isinstance(layer, keras.layers.InputLayer)
            },
            space=space,
            configs=own,
            signed_inputs=signed_inputs,
            norm_context=norm_context,
            scales=_scales(scale, space, per_channel=per_channel),
            strict=strict,
        )
        _try(prepared)
        quantized = build_model(
            prepared.graph, prepared.originals, prepared.configs, prepared.again
        )
    quantized = _with_ends(model, quantized)
    _take_over_precision(model, quantized)
    num_lost = len(model.losses) - len(quantized.losses)
    if num_lost:
        raise ModelError(
            f"Expected the losses of {model.name!r} to be regularizers of its layers' "
            f"kernels, got {num_lost} more (by add_loss, or the bias_regularizer of a "
            "layer before a batch norm, which takes the bias over), which the "
            "quantized copy would lack; leave them out, or call add_loss on the copy."
        )
    return quantized


def _try(prepared: Prepared) -> None:
    """Refuses layers in float that could not be packaged after the training."""
    found = trial_refusals(prepared.graph, prepared.originals, prepared.again)
    raise_refusals(prepared.graph.name, found)


def _with_ends(model: Any, quantized: Any) -> Any:
    """Returns a model whose outputs are put together as those of the float model.

    By the names of their layers, too, by which Keras takes losses and labels of
    several, and calls their metrics; tfmot's wrappers have others. Layers that pass on
    what they are given bear them.
    """
    if not tf.nest.is_nested(model.output):
        return quantized
    with half_precision.in_float32():
        outputs = [
            tensor
            if tensor.node.outbound_layer.name == name
            else keras.layers.Activation("linear", name=name)(tensor)
            for name, tensor in zip(model.output_names, quantized.outputs, strict=True)
        ]
        ends = tf.nest.pack_sequence_as(model.output, outputs)
        return keras.Model(quantized.inputs, ends, name=quantized.name)


def _take_over_precision(model: Any, quantized: Any) -> None:
    """Gives layers with a kernel, and the whole, the mixed policies that they had."""
    originals = layers_by_name(model)
    for layer in quantized.layers:
        original = originals.get(wrapper.inner_layer(layer).name)
        kernel = wrapper.kernel_quantizer(layer)
        has_kernel = kernel is not None and kernel.layer is layer
        if original is not None and has_kernel and half_precision.is_mixed(original):
            half_precision.set_policy(layer, original.dtype_policy)
    if half_precision.is_mixed(model):  # by which `compile` scales the loss
        quantized._set_dtype_policy(model.dtype_policy)


def _scales(scale: str, space: PolicySpace | None, *, per_channel: bool) -> Scales:
    asked = scale if space is None or scale != FREE else space.scale
    return Scales(scale=asked, per_channel=per_channel)


def _checked_context(size: Any) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ModelError(
            f"Expected a norm_context of at least 0, got {size!r}; give a whole number "
            "of entries, or leave it out."
        )
    return size


def _checked_space(space: Any) -> PolicySpace | None:
    if space is None or isinstance(space, PolicySpace):
        return space
    raise ModelError(
        f"Expected a matar_tf.PolicySpace or None as space, got {space!r:.60}; start "
        "from matar_tf.policy_space(model), and change it by with_choices."
    )


def _own_configs(configs: Mapping[str, Any] | None) -> dict[str, MatarQuantizeConfig]:
    if not isinstance(configs, Mapping | None):
        raise ModelError(
            "Expected configs to be a mapping of configs by name or kind of layers, as "
            f"{{'Dense': config}}, got {configs!r:.60}."
        )
    found: dict[str, MatarQuantizeConfig] = {}
    for pattern, config in (configs or {}).items():
        if not isinstance(config, _tfmot.QuantizeConfig):
            raise ModelError(
                "Expected a matar_tf.MatarQuantizeConfig, or another QuantizeConfig of "
                f"tfmot, for {pattern!r} in configs, got {config!r}."
            )
        found[pattern] = _own_config(config)
    return found


def _own_config(config: Any) -> Any:
    if config is None or isinstance(config, MatarQuantizeConfig):
        return config
    return MatarQuantizeConfig(config)
