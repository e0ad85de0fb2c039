"""What outputs of a network no file can have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from matar_tf.keras.rewrite.graph import Graph, Node, TensorRef
from matar_tf.keras.rewrite.kinds import INPUT, is_identity, row_of
from matar_tf.keras.rewrite.merging import computed

__all__ = ["passed_on", "same_outputs"]


def passed_on(graph: Graph) -> list[str]:
    """Returns a refusal for each output of a network that is an input of it.

    Args:
      graph: A network that was read.
    """
    return [
        f"Expected outputs that layers make, got the input {ref.node!r} as it is; "
        "leave it out, since whoever runs the network has it."
        for ref in graph.outputs
        if graph.by_name[ref.node].kind == INPUT
    ]


def same_outputs(graph: Graph, names: Sequence[str]) -> list[str]:
    """Returns a refusal for each tensor that several outputs of a network are.

    Outputs that compute the same of the same tensor are one, too.

    Args:
      graph: A laid-out network.
      names: Of its outputs.
    """
    ends: dict[object, list[str]] = defaultdict(list)
    for name, ref in zip(names, graph.outputs, strict=True):
        source = _source(graph, ref)
        # The converter makes one of two that compute the same.
        key = computed(graph.by_name[source.node])
        ends[(key, source.index) if key else source].append(name)
    return [
        "Expected outputs that are different tensors, got one that several are, "
        f"{', '.join(map(repr, same))}; leave all but one of them out."
        for same in ends.values()
        if len(same) > 1
    ]


def _source(graph: Graph, ref: TensorRef) -> TensorRef:
    """Returns the tensor that layers pass on which change nothing after training."""
    node = graph.by_name[ref.node]
    while is_identity(node) or _keeps_shape(graph, node):
        ref = node.inputs[0]
        node = graph.by_name[ref.node]
    return ref


def _keeps_shape(graph: Graph, node: Node) -> bool:
    """Whether a node reshapes a tensor to the shape that it has."""
    is_reshape = "RESHAPE" in row_of(node).operators
    return is_reshape and graph.input_shape(node) == node.shapes[0]
