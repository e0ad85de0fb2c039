"""Layers that are dense layers in other words: sums of products, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, cast

import numpy as np

from matar_tf.keras.rewrite.einsums import DenseForm, dense_form
from matar_tf.keras.rewrite.graph import Array, Node, Shape, TensorRef
from matar_tf.keras.rewrite.making import (
    Lowering,
    Site,
    function_node,
    lowers,
    made,
)

__all__ = ["PRODUCTS", "dense_node", "einsum_form", "is_bound"]

_CALLED_WITH: Final = (
    *("query", "value", "key", "attention_mask"),
    *("return_attention_scores", "training", "use_causal_mask"),
)
_MOST_AXES: Final = 4  # of a tensor that a dense layer reads
PRODUCTS: Final[dict[str, Lowering]] = {}  # by kind


@lowers(PRODUCTS, "EinsumDense")
def _einsum_dense(node: Node, site: Site) -> list[Node]:
    """A dense layer between moved axes; see `einsum_form`."""
    form, shape = einsum_form(node), site.shape(node.inputs[0])
    if form is None:
        return [node]
    kernel = node.weights["kernel"].transpose(form.kernel)
    sizes = kernel.shape[form.num_summed :]
    kept = tuple(shape[axis] for axis in form.source[: -form.num_summed])
    nodes: list[Node] = []
    source = node.inputs[0]
    if form.source != tuple(range(len(shape))):
        source = _add(nodes, _moved(node, site, source, form.source, shape))
    if form.num_summed > 1:
        flat = (*kept, math.prod(kernel.shape[: form.num_summed]))
        source = _add(nodes, _shaped(node, site, source, flat))
    is_moved = form.result != tuple(range(len(form.result)))
    # A softmax is over the last axis; other functions do not mind how axes lie.
    is_inside = node.activation != "softmax" or not (is_moved or len(sizes) > 1)
    activation = node.activation if is_inside else "linear"
    matrix, bias = kernel.reshape(-1, math.prod(sizes)), _bias(node, form, sizes)
    made_here = (*kept, matrix.shape[1])
    dense = dense_node(node, node.name, source, matrix, bias, made_here, activation)
    source = _add(nodes, dense)
    if len(sizes) > 1:
        source = _add(nodes, _shaped(node, site, source, (*kept, *sizes)))
    if is_moved:
        source = _add(nodes, _moved(node, site, source, form.result, (*kept, *sizes)))
    if not is_inside:
        name = site.free_name(f"{node.name}_{node.activation}")
        nodes.append(function_node(node, node.activation, name, source))
    return nodes


def einsum_form(node: Node) -> DenseForm | None:
    """Returns how a sum of products with a kernel is a dense layer, or None."""
    equation = str(node.attributes["equation"])
    left, _, right = equation.replace("...", "").replace(" ", "").partition("->")
    num_hidden = len(node.shapes[0]) - len(right)
    form = dense_form(equation, len(left.partition(",")[0]) + num_hidden)
    if form is None or is_bound(node):
        return None
    kernel = node.weights["kernel"].transpose(form.kernel)
    num_new = kernel.ndim - form.num_summed
    made_here = [node.shapes[0][axis] for axis in np.argsort(form.result)]
    kept = made_here[: len(made_here) - num_new]
    has_room = len(kept) < _MOST_AXES and kept[1:].count(None) <= 1
    is_plain = "bias" not in node.weights or _bias(node, form, kernel.shape[-num_new:])
    return form if has_room and is_plain is not None else None


def is_bound(node: Node) -> bool:
    """Whether a constraint counts the axes of a kernel as they are."""
    return any(
        value is not None and key.endswith("_constraint")
        for key, value in node.attributes.items()
    )


def _bias(node: Node, form: DenseForm, sizes: Sequence[int]) -> Array | None:
    """Returns the bias of a dense layer, or None if there is none of one."""
    if "bias" not in node.weights:
        return None
    bias, rank = node.weights["bias"], len(form.result)
    bias = bias.reshape((1,) * (rank - bias.ndim) + bias.shape)
    bias = bias.transpose(np.argsort(form.result))
    num_kept = rank - len(sizes)
    if set(bias.shape[:num_kept]) != {1}:
        return None
    return np.broadcast_to(bias.reshape(bias.shape[num_kept:]), sizes).reshape(-1)


def _add(nodes: list[Node], node: Node) -> TensorRef:
    nodes.append(node)
    return node.output


def _moved(
    node: Node, site: Site, source: TensorRef, order: Sequence[int], shape: Shape
) -> Node:
    name = site.free_name(f"{node.name}_order")
    attributes = {"dims": tuple(order[1:])}
    shapes = (tuple(shape[axis] for axis in order),)
    return made(node, "Permute", name, [source], attributes, shapes=shapes)


def _shaped(node: Node, site: Site, source: TensorRef, shape: Shape) -> Node:
    name = site.free_name(f"{node.name}_shape")
    target = tuple(-1 if size is None else size for size in shape[1:])
    attributes = {"target_shape": target}
    return made(node, "Reshape", name, [source], attributes, shapes=(shape,))


def dense_node(
    node: Node,
    name: str,
    source: TensorRef,
    kernel: Array,
    bias: Array | None,
    shape: Shape,
    activation: str = "linear",
) -> Node:
    """Returns a dense layer in the place of a node that multiplies.

    Args:
      node: The node, whose regularizers it takes over.
      name: Of the layer.
      source: What it reads.
      kernel: Shape ``[in, out]``.
      bias: Shape ``[out]``, or None.
      shape: Of what it makes.
      activation: Name of its activation function.
    """
    weights = {"kernel": np.ascontiguousarray(kernel)}
    if bias is not None:
        weights["bias"] = np.ascontiguousarray(bias)
    regularizers = {
        key: node.attributes.get(key)
        for key in ("kernel_regularizer", "bias_regularizer")
    }
    attributes = {
        "units": kernel.shape[1],
        "use_bias": bias is not None,
        "activation": activation,
        **regularizers,
    }
    return made(
        node,
        "Dense",
        name,
        [source],
        attributes,
        activation=activation,
        weights=weights,
        shapes=(shape,),
    )


@lowers(PRODUCTS, "MultiHeadAttention")
def _attention(node: Node, site: Site) -> list[Node]:
    """Four dense layers, and attention proper between the first three and the last.

    Vaswani et al., "Attention is all you need", NeurIPS 2017.
    """
    told = {**dict(zip(_CALLED_WITH, node.arguments, strict=False)), **node.keywords}
    if told.get("key") is None:
        told["key"] = told["value"]
    nodes: list[Node] = []
    tensors: list[TensorRef] = []
    for part in ("query", "value", "key"):
        tensor = cast("TensorRef", told[part])
        kernel, bias = _part(node, part)
        matrix = kernel.reshape(kernel.shape[0], -1)
        shape = (*site.shape(tensor)[:-1], matrix.shape[1])
        name = site.free_name(f"{node.name}/{part}")
        dense = dense_node(node, name, tensor, matrix, bias, shape)
        tensors.append(_add(nodes, dense))
    mask = told.get("attention_mask")
    kernel, bias = _part(node, "attention_output")
    heads, size = kernel.shape[:2]
    name = site.free_name(f"{node.name}/attention")
    is_told = bool(told.get("return_attention_scores"))
    inner = (*nodes[0].shapes[0][:-1], heads * size)
    core = made(
        node,
        "AttentionCore",
        name,
        [*tensors, *([] if mask is None else [cast("TensorRef", mask)])],
        {
            "num_heads": heads,
            "dropout": node.attributes["dropout"],
            "attention_axes": node.attributes["attention_axes"],
            "is_causal": bool(told.get("use_causal_mask")),
            "is_robust": bool(node.attributes.get("softmax_robust_masking")),
            "returns_scores": is_told,
        },
        shapes=(inner, *node.shapes[1:]),
        float_reason=(
            f"Expected layers that integer kernels compute, got {node.name!r} "
            f"({node.kind}), whose scores are products of tensors; its four dense "
            "layers have kernels."
        ),
    )
    nodes.append(core)
    matrix = kernel.reshape(heads * size, -1)
    shape = (*inner[:-1], matrix.shape[1])
    name = f"{node.name}/attention_output"
    dense = dense_node(node, site.free_name(name), core.output, matrix, bias, shape)
    nodes.append(dense)
    if len(kernel.shape) > 3:
        nodes.append(_shaped(node, site, dense.output, node.shapes[0]))
    if is_told:
        site.elsewhere[TensorRef(node.name, 1)] = TensorRef(core.name, 1)
    return nodes


def _part(node: Node, part: str) -> tuple[Array, Array | None]:
    bias = node.weights.get(f"{part}/bias")
    return node.weights[f"{part}/kernel"], None if bias is None else bias.reshape(-1)
