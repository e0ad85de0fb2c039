"""Graph -> Keras model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from matar_tf.errors import ModelError
from matar_tf.keras._compat import KerasLayer, KerasModel, Tensor, keras, tf, tfmot
from matar_tf.keras.borders import FloatWrapper
from matar_tf.keras.quantizers.configs import class_of
from matar_tf.keras.quantizers.half_precision import float32_config, in_float32
from matar_tf.keras.rewrite.graph import Graph, Node, TensorRef, map_refs
from matar_tf.keras.rewrite.kinds import INPUT, row_of
from matar_tf.keras.rewrite.networks import dtype_of
from matar_tf.keras.rewrite.variables import variables_by_name

__all__ = ["build_layer", "build_model"]

_Wrapper = tfmot.quantization.keras.QuantizeWrapperV2


def build_model(
    graph: Graph,
    originals: Mapping[str, KerasLayer],
    configs: Mapping[str, Any] = MappingProxyType({}),
    again: Mapping[str, str] = MappingProxyType({}),
) -> KerasModel:
    """Returns a Functional model of new layers, with the weights of the graph.

    Args:
      graph: A network.
      originals: The layers that nodes may be copies of, by the name of the node.
      configs: What layers are wrapped by tfmot with, by name; others are not.
      again: The node whose layer a node calls again, by the name of the latter.
    """
    tensors: dict[TensorRef, Tensor] = {}
    made: dict[str, KerasLayer] = {}
    for node in _in_order(graph.nodes, again):
        if node.name in configs:
            inner = build_layer(node, graph, originals)
            wrap = FloatWrapper if node.float_reason else _Wrapper
            layer = wrap(inner, configs[node.name])
            outputs = _called(layer, node, tensors.__getitem__)
        elif node.name in again:
            with in_float32():
                outputs = _called(made[again[node.name]], node, tensors.__getitem__)
        else:
            outputs = _outputs(node, originals, tensors.__getitem__)
        made[node.name] = tf.nest.flatten(outputs)[0].node.outbound_layer
        for index, tensor in enumerate(tf.nest.flatten(outputs)):
            tensors[TensorRef(node.name, index)] = tensor
    inputs, results = (
        [tensors[ref] for ref in refs] for refs in (graph.inputs, graph.outputs)
    )
    return keras.Model(inputs, results, name=graph.name)


def _in_order(nodes: Sequence[Node], again: Mapping[str, str]) -> Iterator[Node]:
    """Yields nodes after what they read, and after earlier calls of their layers."""
    uses = {node.name: node.use for node in nodes}
    calls: dict[str, list[str]] = {}
    for name in sorted(again, key=uses.__getitem__):
        calls.setdefault(again[name], [again[name]]).append(name)
    before = {
        name: earlier
        for names in calls.values()
        for earlier, name in itertools.pairwise(names)
    }
    waiting, made = list(nodes), set[str]()
    while waiting:
        left: list[Node] = []
        for node in waiting:
            needed = {*(ref.node for ref in node.inputs), before.get(node.name)}
            if needed - {None} <= made:
                made.add(node.name)
                yield node
            else:
                left.append(node)
        waiting = left


def build_layer(
    node: Node, graph: Graph, originals: Mapping[str, KerasLayer]
) -> KerasLayer:
    """Returns the layer of a node, built for the shapes that it reads in a graph."""

    def fed(ref: TensorRef) -> Tensor:
        dtype = dtype_of(graph.by_name[ref.node], ref.index, originals)
        return keras.Input(batch_shape=graph.shape(ref), dtype=dtype)

    outputs = tf.nest.flatten(_outputs(node, originals, fed))
    return outputs[0].node.outbound_layer


def _outputs(
    node: Node,
    originals: Mapping[str, KerasLayer],
    tensor_of: Callable[[TensorRef], Tensor],
) -> Any:
    """Returns what a new layer makes of the tensors that a node reads."""
    if node.kind == INPUT:
        dtype = node.attributes["dtype"]
        return keras.Input(batch_shape=node.shapes[0], dtype=dtype, name=node.name)
    with in_float32():
        if node.is_copy:
            layer = _copy(originals[node.origin], node.name)
        else:
            layer = class_of(node.kind).from_config(dict(node.attributes))
        layer.trainable = not node.is_frozen
        outputs = _called(layer, node, tensor_of)
    if node.is_copy:
        layer.set_weights(originals[node.origin].get_weights())
    elif not row_of(node).is_identity:  # which has random states at most
        for name, variable in variables_by_name(layer).items():
            if name in node.weights:
                variable.assign(node.weights[name])
    return outputs


def _called(
    layer: KerasLayer, node: Node, tensor_of: Callable[[TensorRef], Tensor]
) -> Any:
    arguments = cast("tuple[Any, ...]", map_refs(node.arguments, tensor_of))
    keywords = cast("dict[str, Any]", map_refs(node.keywords, tensor_of))
    return layer(*arguments, **keywords)


def _copy(layer: KerasLayer, name: str) -> KerasLayer:
    """Returns a new layer that does what another one does, in float32."""
    if type(layer) is keras.layers.Lambda:
        # By its config a function would lose the names that it finds around itself.
        return keras.layers.Lambda(
            layer.function,
            output_shape=layer._output_shape,
            mask=layer.mask,
            arguments=layer.arguments,
            name=name,
        )
    config = {**float32_config(layer), "name": name}
    try:
        return type(layer).from_config(config)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"Expected a layer that its config rebuilds, got {name!r} "
            f"({type(layer).__name__}), of which that fails ({error}); mend its "
            "get_config."
        ) from error
