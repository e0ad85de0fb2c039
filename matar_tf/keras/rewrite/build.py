"""Graph -> Keras model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from matar_tf.keras._compat import KerasLayer, KerasModel, Tensor, keras, tf
from matar_tf.keras.quantizers.configs import class_of, variable_name
from matar_tf.keras.quantizers.half_precision import float32_config, in_float32
from matar_tf.keras.rewrite.graph import Graph, Node, TensorRef, map_refs
from matar_tf.keras.rewrite.kinds import INPUT, row_of

__all__ = ["build_layer", "build_model"]


def build_model(
    graph: Graph,
    originals: Mapping[str, KerasLayer],
    again: Mapping[str, str] = MappingProxyType({}),
) -> KerasModel:
    """Returns a Functional model of new layers, with the weights of the graph.

    Args:
      graph: A network.
      originals: The layers that nodes may be copies of, by the name of the node.
      again: The node whose layer a node calls again, by the name of the latter.
    """
    tensors: dict[TensorRef, Tensor] = {}
    made: dict[str, KerasLayer] = {}
    for node in _in_order(graph.nodes, again):
        first = made.get(again.get(node.name, ""))
        outputs = _outputs(node, originals, tensors.__getitem__, first)
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
        return keras.Input(batch_shape=graph.shape(ref))

    return _outputs(node, originals, fed).node.outbound_layer


def _outputs(
    node: Node,
    originals: Mapping[str, KerasLayer],
    tensor_of: Callable[[TensorRef], Tensor],
    first: KerasLayer | None = None,
) -> Any:
    """Returns what a new layer, or `first`, makes of the tensors that a node reads."""
    if node.kind == INPUT:
        dtype = node.attributes["dtype"]
        return keras.Input(batch_shape=node.shapes[0], dtype=dtype, name=node.name)
    arguments = cast("tuple[Any, ...]", map_refs(node.arguments, tensor_of))
    keywords = cast("dict[str, Any]", map_refs(node.keywords, tensor_of))
    if first is not None:
        with in_float32():
            return first(*arguments, **keywords)
    if node.is_copy:
        original = originals[node.origin]
        kind, config = type(original), float32_config(original)
        config = {**config, "name": node.name}
    else:
        kind, config = class_of(node.kind), dict(node.attributes)
    with in_float32():
        layer = kind.from_config(config)
        layer.trainable = not node.is_frozen
        outputs = layer(*arguments, **keywords)
    if node.is_copy:
        layer.set_weights(originals[node.origin].get_weights())
    elif not row_of(node).is_identity:  # which has random states at most
        for variable in layer.weights:
            if variable_name(variable) in node.weights:
                variable.assign(node.weights[variable_name(variable)])
    return outputs
