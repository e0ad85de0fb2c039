"""Laying a float network out for quantization: one operation a node.

`lay_out` makes a graph in which every tensor that the integer model stores has exactly
one place where it can be quantized, as TFLite's integer kernels have it: activation
functions that cannot be fused stand alone, separable convolutions are split as tfmot
splits them, one-dimensional layers become two-dimensional ones, batch norms become
multi-bitwidth ones, inputs are quantized. `with_widths` then gives banks their rows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from matar_tf.keras.rewrite.graph import (
    FreeNames,
    Graph,
    Node,
    Shape,
    TensorRef,
    map_refs,
    reading,
    refs_in,
)
from matar_tf.keras.rewrite.kinds import (
    DEQUANTIZER,
    INPUT,
    INPUT_QUANTIZER,
    NORM,
    QUANTIZER,
    is_quantizer,
    keeps_lifted,
    row_of,
)
from matar_tf.keras.rewrite.lifting import (
    lifted_axis,
    lifted_node,
    lifted_shape,
    reshape_node,
)
from matar_tf.keras.rewrite.plan import Entries, Plan
from matar_tf.keras.rewrite.replacements import LAYOUTS, Site
from matar_tf.norms import num_norm_rows
from matar_tf.policy import ALL_BITS, MAX_BITS
from matar_tf.scales import FREE

__all__ = ["lay_out", "with_widths"]


def lay_out(graph: Graph, *, only: Collection[str] | None = None) -> Graph:
    """Returns a float network with one operation a node.

    Args:
      graph: A float network that passed `check_graph`.
      only: Names of the layers to prepare; None for all. Others stay as they are.
    """
    return _Layout(graph, only).graph()


def with_widths(
    graph: Graph,
    plan: Plan,
    contexts: Mapping[str, Entries],
    *,
    signed_inputs: bool,
) -> Graph:
    """Returns a laid-out network whose batch norms and inputs have their widths.

    Args:
      graph: What `lay_out` returned.
      plan: Its plan.
      contexts: What the statistics of batch norms depend on beside the widths of the
        layer's own weights, by the name of the layer whose output they normalise.
      signed_inputs: Whether the samples have values below 0.
    """
    space = plan.space

    def widened(node: Node) -> Node:
        if is_quantizer(node):
            entry = str(node.attributes["entry"])
            bits = space.activations.get(entry, (MAX_BITS,))
            widths = {"bits": bits, "signed": plan.signed.get(entry, signed_inputs)}
            own = {} if space.scale == FREE else {"scale": space.scale}
            return replace(node, attributes={**node.attributes, **widths, **own})
        if node.kind == NORM and not node.is_copy:
            maker = str(node.attributes["entry"])
            entry = plan.shared.get(maker, maker)
            node = replace(node, attributes={**node.attributes, "entry": entry})
            bits = space.weights.get(entry, ALL_BITS)
            return _with_rows(node, bits, contexts.get(maker, ()))
        return node

    return replace(graph, nodes=tuple(map(widened, graph.nodes)))


def _with_rows(node: Node, bits: Sequence[int], context: Entries) -> Node:
    """Returns a batch norm whose rows all are equal to the float batch norm."""
    sizes = [len(bits), *(len(widths) for _, _, widths in context)]
    rows = np.arange(num_norm_rows(sizes))[:, np.newaxis]
    # The first term has it all; the others start without effect.
    first = rows < num_norm_rows(sizes[:2])
    weights = {
        **node.weights,
        "moving_mean": np.where(first, node.weights["moving_mean"], 0.0),
        "moving_variance": np.where(first, node.weights["moving_variance"], 1.0),
    }
    attributes = {**node.attributes, "bits": bits, "context": context}
    return replace(node, attributes=attributes, weights=weights)


class _Layout:
    """Replaces the nodes of a float network one after the other."""

    def __init__(self, graph: Graph, only: Collection[str] | None) -> None:
        self._graph = graph
        self._only = only
        self._free_name = FreeNames(graph.by_name).take
        self._nodes: dict[str, Node] = {}
        self._tensors: dict[TensorRef, TensorRef] = {}  # new ones by old ones
        self._floats: dict[TensorRef, TensorRef] = {}  # as float layers read them
        self._lifted: dict[TensorRef, Shape] = {}  # of height 1: what they were
        self._lifted_of: dict[TensorRef, TensorRef] = {}
        self._lowered_of: dict[TensorRef, TensorRef] = {}

    def graph(self) -> Graph:
        """Returns the new network."""
        for ref in self._graph.inputs:
            self._feed(self._graph.by_name[ref.node])
        for node in self._graph.nodes:
            if node.kind != INPUT:
                self._replace(node)
        outputs = [
            self._floats[ref]
            if self._graph.by_name[ref.node].float_reason
            else self._lower(self._tensors[ref], self._graph.by_name[ref.node].origin)
            for ref in self._graph.outputs
        ]
        return Graph(
            name=self._graph.name,
            nodes=tuple(self._nodes.values()),
            inputs=self._graph.inputs,
            outputs=tuple(outputs),
        )

    def _feed(self, node: Node) -> None:
        """Adds an input, and its quantizer if a layer to be quantized reads it."""
        self._nodes[node.name] = node
        self._tensors[node.output] = self._floats[node.output] = node.output
        readers = [one for one in self._graph.consumers(node) if not one.float_reason]
        if any(self._only is None or one.origin in self._only for one in readers):
            # Keras takes names of inputs that no scope of TensorFlow has.
            scope = re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", node.name)
            name = self._free_name(f"{scope}_quantize")
            quantizer = Node(
                name=name,
                kind=INPUT_QUANTIZER,
                origin=node.name,
                shapes=node.shapes,
                arguments=(node.output,),
                attributes={"name": name, "entry": node.name},
            )
            self._nodes[name] = quantizer
            self._tensors[node.output] = quantizer.output

    def _replace(self, original: Node) -> None:
        """Adds what replaces a layer.

        Tensors stay *lifted*, with a height of 1, as long as layers take them so.
        """
        if original.float_reason:
            self._keep(original)
            return
        is_touched = self._only is None or original.origin in self._only
        for ref in original.inputs:
            self._quantize(ref)
        arguments = map_refs(original.arguments, self._tensors.__getitem__)
        is_lifted = [ref in self._lifted for ref in refs_in(arguments)]
        lifts = is_touched and self._is_to_be_lifted(original)
        keeps = is_touched and keeps_lifted(original) and all(is_lifted)
        node = original if is_touched else replace(original, is_copy=True)
        node = lifted_node(node) if lifts else node
        node = lifted_axis(node) if keeps else node

        def taken(ref: TensorRef) -> TensorRef:
            new = self._tensors[ref]
            if lifts:
                return self._lift(new, original.origin)
            return new if keeps else self._lower(new, original.origin)

        node = reading(node, taken)
        new = [node]
        if not node.is_copy and node.kind in LAYOUTS:
            site = Site(
                graph=self._graph,
                original=original,
                free_name=self._free_name,
                maker=lambda ref: self._nodes[ref.node],
            )
            new = list(LAYOUTS[node.kind](node, site))
        self._nodes.update({one.name: one for one in new})
        last = new[-1]
        for index, shape in enumerate(last.shapes):
            ref = TensorRef(last.name, index)
            self._tensors[TensorRef(original.name, index)] = ref
            if keeps or (lifts and len(shape) == 4):
                self._lifted[ref] = original.shapes[index]

    def _keep(self, node: Node) -> None:
        """Adds a layer that stays in float."""
        for ref in node.inputs:
            self._dequantize(ref)
        self._nodes[node.name] = reading(node, self._floats.__getitem__)
        for index in range(len(node.shapes)):
            ref = TensorRef(node.name, index)
            self._floats[ref] = ref

    def _quantize(self, ref: TensorRef) -> None:
        """Sees to a tensor on a grid, if only the float one is there."""
        if ref not in self._tensors:
            entry = ref.node if ref.index == 0 else f"{ref.node}/{ref.index}"
            attributes = {"entry": entry}
            self._tensors[ref] = self._border(QUANTIZER, ref, ref, attributes)

    def _dequantize(self, ref: TensorRef) -> None:
        """Sees to a float tensor, if only the one on a grid is there."""
        if ref not in self._floats:
            origin = self._graph.by_name[ref.node].origin
            source = self._lower(self._tensors[ref], origin)
            self._floats[ref] = self._border(DEQUANTIZER, ref, source, {})

    def _border(
        self,
        kind: str,
        ref: TensorRef,
        source: TensorRef,
        attributes: Mapping[str, object],
    ) -> TensorRef:
        """Adds a node between the integer part and a layer in float."""
        maker = self._graph.by_name[ref.node]
        name = self._free_name(f"{ref.node}_{kind.lower()}")
        node = Node(
            name=name,
            kind=kind,
            origin=maker.origin,
            shapes=(maker.shapes[ref.index],),
            arguments=(source,),
            attributes={"name": name, **attributes},
        )
        self._nodes[name] = node
        return node.output

    def _is_to_be_lifted(self, node: Node) -> bool:
        lifted = row_of(node).lifted
        is_image = len(node.shapes[0]) == 4
        return lifted is not None and not (lifted == node.kind and is_image)

    def _lift(self, tensor: TensorRef, origin: str) -> TensorRef:
        if tensor in self._lifted:
            return tensor
        if tensor not in self._lifted_of:
            before = self._nodes[tensor.node].shapes[tensor.index]
            name = self._free_name(f"{tensor.node}_lifted")
            node = reshape_node(name, tensor, lifted_shape(before), origin)
            self._nodes[name] = node
            self._lifted[node.output] = before
            self._lifted_of[tensor] = node.output
            self._lowered_of[node.output] = tensor
        return self._lifted_of[tensor]

    def _lower(self, tensor: TensorRef, origin: str) -> TensorRef:
        if tensor not in self._lifted:
            return tensor
        if tensor not in self._lowered_of:
            shape = self._lifted[tensor]
            name = self._free_name(f"{tensor.node}_lowered")
            node = reshape_node(name, tensor, shape, origin)
            self._nodes[name] = node
            self._lowered_of[tensor] = node.output
        return self._lowered_of[tensor]
