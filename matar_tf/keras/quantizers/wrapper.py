"""tfmot's wrapper, mended, and the graph of a quantized model that it stands in.

Who feeds whom, which quantizer is whose: asked while a layer is being traced, after
the model was put together. Keras keeps the answer in the layer's inbound nodes, also
in a model that was loaded from a file.
"""

from __future__ import annotations

import weakref
from typing import Any

from matar_tf.keras._compat import KerasLayer, KerasModel, Tensor, keras, tf, tfmot
from matar_tf.keras.quantizers.grids import ActivationGrid, KernelGrid, LearnedGrid
from matar_tf.layer_kinds import LAYER_KINDS, LayerKind

__all__ = [
    "all_quantizers",
    "bias_variable",
    "call_name",
    "entry_name",
    "find_owner",
    "float_kernels",
    "grid_below",
    "has_keys",
    "honour_freezing",
    "inner_layer",
    "input_quantizer",
    "is_named_end",
    "is_quantized",
    "is_wrapped",
    "joins",
    "kernel_quantizer",
    "kernel_variable",
    "multi_bit_network",
    "multiplier",
    "output_maker",
    "output_names",
    "output_quantizer",
    "producer",
    "reads_one_tensor",
    "remember_wrapper",
    "row_of",
    "tensors_read",
    "track_inner_weights",
]

_FOREIGN = LayerKind()
_Wrapper = tfmot.quantization.keras.QuantizeWrapper


def inner_layer(layer: KerasLayer) -> KerasLayer:
    """Returns the layer inside tfmot's wrapper, or the layer itself.

    Of a further call of a layer it is that layer's.
    """
    layer = _owner(layer)
    return layer.layer if isinstance(layer, _Wrapper) else layer


def is_wrapped(layer: KerasLayer) -> bool:
    """Whether a layer is one of tfmot's wrappers."""
    return isinstance(layer, _Wrapper)


def _owner(layer: KerasLayer) -> KerasLayer:
    """Returns the layer that has the weights which a layer multiplies by."""
    return getattr(layer, "shared_layer", layer)


def row_of(layer: KerasLayer) -> LayerKind:
    """Returns the row of a layer's kind; a foreign one's, as a wrapper's, is empty."""
    return LAYER_KINDS.get(type(layer).__name__, _FOREIGN)


def is_quantized(layer: KerasLayer) -> bool:
    """Returns whether a layer quantizes something, by tfmot's means or ours."""
    return isinstance(layer, _Wrapper) or bool(all_quantizers(layer))


def multi_bit_network(model: KerasModel) -> KerasModel:
    """Returns the multi-bitwidth model that a trainer trains, or the model itself."""
    return getattr(model, "multi_bit_network", model)


def is_named_end(layer: KerasLayer) -> bool:
    """Whether a layer only bears the name of an output; see `quantize_model`."""
    is_plain = type(layer) is keras.layers.Activation
    return is_plain and layer.activation is keras.activations.linear


def output_maker(output: Tensor) -> KerasLayer:
    """Returns the layer that makes an output, not the one that bears its name."""
    layer = output.node.outbound_layer
    while is_named_end(layer):
        layer = layer.inbound_nodes[0].inbound_layers
    return inner_layer(layer)


def has_keys(model: KerasModel) -> bool:
    """Whether the outputs of a model are in a dict, whose keys are their names."""
    made = model.output
    return isinstance(made, dict) and all(
        isinstance(key, str) and not tf.nest.is_nested(one) for key, one in made.items()
    )


def output_names(model: KerasModel) -> list[str]:
    """Returns the names of a model's outputs, without those of wrappers.

    They are different ones, as Keras makes them: of two outputs of one layer the second
    has a number.
    """
    if has_keys(model):
        return sorted(model.output)
    found: list[str] = []
    for tensor in model.outputs:
        name = inner_layer(tensor.node.outbound_layer).name
        number = found.count(name)
        found.append(name if not number else f"{name}_{number}")
    return found


def entry_name(layer: KerasLayer) -> str:
    """Returns the name of the policy entry that a layer's quantizer answers to."""
    named = getattr(layer, "entry", None)
    return named if isinstance(named, str) else inner_layer(layer).name


def call_name(layer: KerasLayer, use: int) -> str:
    """Returns the name of a call of a layer in float; the first has the layer's.

    Args:
      layer: The layer.
      use: How many calls of it were before.
    """
    name: str = inner_layer(layer).name
    return f"{name}/use_{use + 1}" if use else name


def all_quantizers(layer: KerasLayer) -> tuple[Any, ...]:
    """Returns the multi-bitwidth quantizers of a layer; none for plain layers."""
    owner = layer.quantize_config if isinstance(layer, _Wrapper) else layer
    # tfmot wraps the config of a layer above an annotated one in OutputOnlyConfig.
    owner = getattr(owner, "quantize_config", owner)
    return tuple(getattr(owner, "multi_bit_quantizers", ()))


def kernel_quantizer(layer: KerasLayer) -> KernelGrid | None:
    """Returns the quantizer of the kernel that a layer multiplies integers by."""
    quantizers = all_quantizers(_owner(layer))
    found = [q for q in quantizers if q.kind == "weights" and not q.in_float]
    return found[0] if found else None


def float_kernels(layer: KerasLayer) -> list[tuple[KernelGrid, Tensor]]:
    """Returns the quantizers and variables of the kernels of a layer in float."""
    found = [q for q in all_quantizers(layer) if q.kind == "weights" and q.in_float]
    return [
        (one, next(kernel for kernel, other, _ in layer._weight_vars if other is one))
        for one in found
    ]


def kernel_variable(layer: KerasLayer) -> Tensor:
    """Returns the float kernel of a layer that has a `kernel_quantizer`."""
    quantizer, weights = kernel_quantizer(layer), _owner(layer)._weight_vars
    return next(one for one, other, _ in weights if other is quantizer)


def bias_variable(layer: KerasLayer) -> Tensor:
    """Returns the float bias of a layer that has one and a `kernel_quantizer`."""
    return _owner(layer)._weight_vars[-1][0]


def output_quantizer(layer: KerasLayer) -> ActivationGrid | None:
    """Returns the quantizer on whose grid a layer puts its output, or None."""
    grid = getattr(getattr(layer, "quantize_config", None), "grid", None)
    if grid is not None:
        return grid.resolve()
    found = [q for q in all_quantizers(layer) if q.kind == "activations"]
    return found[-1] if found else None


def find_owner(layer: KerasLayer, entry: str) -> LearnedGrid | None:
    """Returns the quantizer of an entry elsewhere in the graph of a layer, or None."""
    seen: set[int] = set()
    waiting = [layer]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        for quantizer in all_quantizers(one):
            if quantizer.kind == "activations" and quantizer.entry == entry:
                return quantizer
        for node in one.inbound_nodes[-1:]:
            waiting += tf.nest.flatten(node.inbound_layers)
        waiting += [node.outbound_layer for node in one.outbound_nodes]
    return None


def grid_below(layer: KerasLayer) -> ActivationGrid | None:
    """Returns the quantizer on whose grid what a layer makes is put, or None.

    Its own, that of the activation function that its kernel computes as well, or that
    of what it is joined into.
    """
    one = _outer(layer)
    while True:
        grid, below = output_quantizer(one), _consumers(one)
        if grid is not None or len(below) != 1:
            return grid
        one = below[0]
        inner = inner_layer(one)
        if not (_is_passed(inner) or row_of(inner).joins):
            return None


def joins(layer: KerasLayer, part: KerasLayer) -> bool:
    """Whether a layer joins what another makes with other tensors, and only it does."""
    below = _consumers(part)
    while len(below) == 1:
        one = below[0]
        row = row_of(inner_layer(one))
        if not (row.joins or row.is_identity):
            return False
        if one is layer:
            return True
        below = _consumers(one)
    return False


def _consumers(layer: KerasLayer) -> list[KerasLayer]:
    """Returns what reads a layer in the model that it was last put into."""
    if not layer.inbound_nodes:
        return []
    made = {id(one) for one in tf.nest.flatten(layer.inbound_nodes[-1].outputs)}
    return [
        node.outbound_layer
        for node in layer.outbound_nodes
        if made & {id(one) for one in tensors_read(node)}
    ]


def tensors_read(node: Any) -> list[Any]:
    """Returns the tensors that a call of a layer computes with."""
    is_shared = hasattr(node.layer, "shared_layer")
    return list(node.keras_inputs[:-1] if is_shared else node.keras_inputs)


def remember_wrapper(wrapper: KerasLayer) -> None:
    """Lets the layer inside a wrapper find its place in the graph: the wrapper's.

    A wrapper around a frozen layer is frozen, too.
    """
    inner = inner_layer(wrapper)
    if is_wrapped(wrapper):
        inner.matar_wrapper = weakref.ref(wrapper)
        if not inner.trainable:
            wrapper.trainable = False


def track_inner_weights(wrapper: KerasLayer) -> None:
    """Puts the inner layer's weights before the wrapper's own, on every path.

    tfmot's wrapper does so only if the inner layer was built before; a loaded model,
    whose layers are built inside their wrappers, would have another order of weights
    than the model that was saved.
    """
    inner = inner_layer(wrapper)
    if not is_wrapped(wrapper):
        return
    known = {id(weight) for weight in wrapper._trainable_weights}
    # Not `trainable_weights`, which are none in a frozen layer.
    wrapper._trainable_weights.extend(
        weight
        for one in inner._flatten_layers()
        for weight in one._trainable_weights
        if id(weight) not in known
    )


def honour_freezing(wrapper_kind: type[Any], config_kind: type[Any]) -> None:
    """Lets tfmot's wrapper have no trainable weights while it is frozen, as in Keras.

    tfmot 0.8.1 lists them all the same, so that training moves them, and the inner
    layer's once more with those that are not trained, so that HDF5 files have them
    twice. The order of all weights is the same, frozen or not. Variables that are
    constants it lists as well.

    Args:
      wrapper_kind: The wrapper, whose properties are replaced.
      config_kind: Kind of config of the layers that this holds for; others stay as
        tfmot has them.
    """
    trained = wrapper_kind.trainable_weights.fget
    others = wrapper_kind.non_trainable_weights.fget

    def is_frozen(wrapper: KerasLayer) -> bool:
        config = getattr(wrapper, "quantize_config", None)
        return isinstance(config, config_kind) and not wrapper.trainable

    def split(wrapper: KerasLayer) -> tuple[list[Tensor], list[Tensor]]:
        found = trained(wrapper)
        if is_frozen(wrapper):
            return [], found
        learned = [one for one in found if one.trainable]
        return learned, [one for one in found if not one.trainable]

    def trainable_weights(wrapper: KerasLayer) -> list[Tensor]:
        return split(wrapper)[0]

    def non_trainable_weights(wrapper: KerasLayer) -> list[Tensor]:
        return wrapper._dedup_weights([*split(wrapper)[1], *others(wrapper)])

    wrapper_kind.trainable_weights = property(trainable_weights)
    wrapper_kind.non_trainable_weights = property(non_trainable_weights)


def producer(layer: KerasLayer, place: int = 0) -> KerasLayer | None:
    """Returns the layer that makes an input of `layer`, the first or another, or None.

    Layers with several inputs either have a grid of their own (sums), or inputs that
    share one (concatenations), so that any of them tells the grid.
    """
    nodes = _outer(layer).inbound_nodes
    if not nodes:
        return None
    parent = tf.nest.flatten(nodes[-1].inbound_layers)[place]
    return None if isinstance(parent, keras.layers.InputLayer) else parent


def _outer(layer: KerasLayer) -> KerasLayer:
    """Returns the wrapper of a layer, if it has one that is remembered."""
    wrapper = getattr(layer, "matar_wrapper", None)
    return layer if wrapper is None else wrapper()


def reads_one_tensor(layer: KerasLayer) -> bool:
    """Whether all inputs of a layer are the same tensor."""
    nodes = layer.inbound_nodes
    return bool(nodes) and len({id(one) for one in nodes[-1].keras_inputs}) == 1


def multiplier(layer: KerasLayer) -> KerasLayer | None:
    """Returns the layer with a kernel whose output a batch norm normalises, or None.

    Layers that change nothing once the network is trained may stand between.
    """
    above = producer(layer)
    while above is not None and _is_passed(above):
        above = producer(above)
    return above


def _is_passed(layer: KerasLayer) -> bool:
    # A config for all layers wraps those, too, of which nothing is quantized.
    if is_wrapped(layer) and output_quantizer(layer) is not None:
        return False
    row = row_of(inner_layer(layer))
    return row.is_identity or row.activation == ""


def input_quantizer(layer: KerasLayer, place: int = 0) -> ActivationGrid | None:
    """Returns the quantizer whose grid an input of `layer` lies on.

    Walks up through layers that keep the grid (pooling, reshaping, dropout).

    Returns:
      None while the graph is still being put together, or for a float input.
    """
    above = producer(layer, place)
    while above is not None:
        found = output_quantizer(above)
        if found is not None:
            return found
        above = producer(above)
    return None
