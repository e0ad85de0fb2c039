"""Batch norms, scales and other layers, put together from those that operators are."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, cast

import numpy as np
from numpy.typing import ArrayLike

from matar_tf.keras.rewrite.channels import folded
from matar_tf.keras.rewrite.graph import Array, Node
from matar_tf.keras.rewrite.kinds import SCALE, row_of
from matar_tf.keras.rewrite.making import Lowering, Site, lowers, made, scale_node

__all__ = ["LAYERS"]

_LEAST_DEVIATION: Final = 1e-7  # Keras' own epsilon
LAYERS: Final[dict[str, Lowering]] = {}  # by kind


@lowers(LAYERS, "Rescaling")
def _rescaling(node: Node, _site: Site) -> list[Node]:
    factor, offset = (
        cast("ArrayLike", node.attributes[name]) for name in ("scale", "offset")
    )
    shift = offset if np.any(offset) else None
    return [scale_node(node, node.name, node.inputs[0], factor, shift)]


@lowers(LAYERS, "Normalization")
def _normalization(node: Node, _site: Site) -> list[Node]:
    """``(x - mean) / deviation``, or the way back."""
    mean, variance = (
        np.asarray(
            node.weights[name] if name in node.weights else node.attributes[name],
            np.float64,
        ).reshape(-1)
        for name in ("mean", "variance")
    )
    deviation = np.maximum(np.sqrt(variance), _LEAST_DEVIATION)
    if node.attributes["invert"]:
        return [scale_node(node, node.name, node.inputs[0], deviation, mean)]
    return [
        scale_node(node, node.name, node.inputs[0], 1 / deviation, -mean / deviation)
    ]


@lowers(LAYERS, SCALE)
def _composed(node: Node, site: Site) -> list[Node]:
    """Scales in a row become one."""
    above = site.nodes[node.inputs[0].node]
    if above.kind != SCALE or not site.is_read_once(node):
        return [node]
    factors, offsets = zip(*map(_affine, (above, node)), strict=True)
    factor = factors[0] * factors[1]
    offset = offsets[0] * factors[1] + offsets[1]
    return [scale_node(node, node.name, above.inputs[0], factor, offset)]


def _affine(node: Node) -> tuple[Array, Array]:
    factor = node.weights["depthwise_kernel"].reshape(-1)
    return factor, node.weights.get("bias", np.zeros_like(factor))


@lowers(LAYERS, "Average")
def _average(node: Node, site: Site) -> list[Node]:
    total = made(node, "Add", site.free_name(f"{node.name}_sum"), node.inputs)
    share = 1.0 / len(node.inputs)
    return [total, scale_node(node, node.name, total.output, share)]


@lowers(LAYERS, "LayerScale")
def _layer_scale(node: Node, site: Site) -> list[Node]:
    """A learned factor of each channel (Touvron et al., ICCV 2021)."""
    return site.scaled(node, 0, node.weights["gamma"], node.name)


@lowers(LAYERS, "CustomScaleLayer")
def _scaled_residual(node: Node, site: Site) -> list[Node]:
    """``x + scale * y``."""
    name = site.free_name(f"{node.name}_scale")
    scaled = site.scaled(node, 1, cast("float", node.attributes["scale"]), name)
    tensors = [node.inputs[0], scaled[-1].output]
    return [*scaled, made(node, "Add", node.name, tensors)]


@lowers(LAYERS, "StochasticDepth")
def _stochastic_depth(node: Node, _site: Site) -> list[Node]:
    """A dropout of whole samples."""
    shape = (None, *[1] * (len(node.shapes[0]) - 1))
    attributes = {"rate": node.attributes["drop_path_rate"], "noise_shape": shape}
    return [made(node, "Dropout", node.name, node.inputs, attributes)]


@lowers(LAYERS, "RepeatVector")
def _repeat(node: Node, site: Site) -> list[Node]:
    name, channels = site.free_name(f"{node.name}_one"), node.shapes[0][-1]
    one = made(node, "Reshape", name, node.inputs, {"target_shape": (1, channels)})
    one = replace(one, shapes=((node.shapes[0][0], 1, channels),))
    size = {"size": node.attributes["n"]}
    return [one, made(node, "UpSampling1D", node.name, [one.output], size)]


@lowers(LAYERS, "Conv1D", "SeparableConv1D")
def _causal(node: Node, site: Site) -> list[Node]:
    """A convolution that sees the past alone: padded on the left."""
    if node.attributes["padding"] != "causal":
        return [node]
    (size,), (dilation,) = (
        np.ravel(cast("ArrayLike", node.attributes[name])).tolist()
        for name in ("kernel_size", "dilation_rate")
    )
    before = dilation * (size - 1)
    shape = site.shape(node.inputs[0])
    pad = made(
        node,
        "ZeroPadding1D",
        site.free_name(f"{node.name}_pad"),
        [node.inputs[0]],
        {"padding": (before, 0)},
        shapes=((shape[0], None if shape[1] is None else shape[1] + before, shape[2]),),
    )
    attributes = {**node.attributes, "padding": "valid"}
    return [pad, replace(node, arguments=(pad.output,), attributes=attributes)]


@lowers(LAYERS, "BatchNormalization")
def _norm(node: Node, site: Site) -> list[Node]:
    """A batch norm after a layer that it is folded into, which may be a scale.

    Two in a row become one: what the second makes of the first's output has the
    second's mean and deviation.
    """
    above = site.maker(node)
    if above.kind == node.kind and site.is_read_once(node):
        return list(_norm(_merged(above, node), site))
    is_last = above.activation == "linear" and site.is_read_once(node)
    is_last = is_last and above.origin not in site.norms_unlike
    if row_of(above).folds_norm and is_last and not above.is_copy:
        return [node]
    scale = scale_node(node, site.free_name(f"{node.name}_scale"), node.inputs[0], 1.0)
    return [scale, replace(node, arguments=(scale.output,))]


def _merged(first: Node, second: Node) -> Node:
    """Returns the batch norm that does what two in a row do."""
    factor, offset = 1.0, 0.0
    for node in (first, second):
        scale, shift = folded(node)
        factor, offset = factor * scale, offset * scale + shift
    epsilon = float(str(second.attributes["epsilon"]))
    gamma = second.weights.get("gamma", np.ones_like(factor)).astype(np.float64)
    is_dead = factor == 0.0
    known = np.where(is_dead, 1.0, factor)
    variance = np.where(is_dead, 1.0, (gamma / known) ** 2 - epsilon)
    # Where the first left less than the second's epsilon, no variance gives its factor.
    variance = np.maximum(variance, 0.0)
    gamma = np.where(is_dead, 0.0, known * np.sqrt(variance + epsilon))
    beta = second.weights.get("beta", np.zeros_like(factor))
    weights = {
        "gamma": gamma,
        "beta": np.where(is_dead, offset, beta),
        "moving_mean": np.where(is_dead, 0.0, (beta - offset) / known),
        "moving_variance": variance,
    }
    return replace(
        second,
        arguments=first.arguments,
        keywords={},
        attributes={**second.attributes, "scale": True, "center": True},
        weights={name: value.astype(np.float32) for name, value in weights.items()},
    )
