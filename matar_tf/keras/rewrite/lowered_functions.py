"""Activation functions, and their layers, made of those that operators are."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np

from matar_tf.keras.rewrite.graph import Node, Shape, TensorRef
from matar_tf.keras.rewrite.making import (
    Lowering,
    Site,
    function_node,
    lowers,
    made,
    scale_node,
)

__all__ = ["FUNCTIONS", "FUNCTION_LAYERS"]

_SIX: Final = 6.0
_SELU_ALPHA: Final = 1.6732632423543772  # Klambauer et al., NeurIPS 2017
_SELU_SCALE: Final = 1.0507009873554805
FUNCTIONS: Final[dict[str, Lowering]] = {}  # by the function's name
FUNCTION_LAYERS: Final[dict[str, Lowering]] = {}  # by kind


@lowers(FUNCTIONS, "silu", "swish")
def _swish(node: Node, site: Site) -> list[Node]:
    """``x * sigmoid(x)``."""
    name = site.free_name(f"{node.name}_sigmoid")
    gate = function_node(node, "sigmoid", name, node.inputs[0])
    return [gate, made(node, "Multiply", node.name, [node.inputs[0], gate.output])]


@lowers(FUNCTIONS, "hard_sigmoid")
def _hard_sigmoid(node: Node, site: Site) -> list[Node]:
    """Keras 2's ``clip(0.2 * x + 0.5, 0, 1)``, as ``relu6(1.2 * x + 3) / 6``."""
    inner, clamp = (
        site.free_name(f"{node.name}_{part}") for part in ("inner", "relu6")
    )
    before = scale_node(node, inner, node.inputs[0], 1.2, 3.0)
    ceiling = function_node(node, "relu6", clamp, before.output)
    return [before, ceiling, scale_node(node, node.name, ceiling.output, 1.0 / _SIX)]


@lowers(FUNCTIONS, "selu")
def _selu(node: Node, site: Site) -> list[Node]:
    return _scaled_elu(node, site, _SELU_ALPHA, _SELU_SCALE)


@lowers(FUNCTION_LAYERS, "ELU")
def _elu(node: Node, site: Site) -> list[Node]:
    alpha = float(str(node.attributes["alpha"]))
    if alpha == 1.0:
        return [node]
    return _scaled_elu(node, site, alpha, 1.0)


def _scaled_elu(node: Node, site: Site, alpha: float, scale: float) -> list[Node]:
    """``scale * ((1 - alpha) * relu(x) + alpha * elu(x))``."""
    names = [
        site.free_name(f"{node.name}_{part}")
        for part in ("relu", "relu_scale", "elu", "elu_scale")
    ]
    relu = function_node(node, "relu", names[0], node.inputs[0])
    above = scale_node(node, names[1], relu.output, scale * (1.0 - alpha))
    elu = function_node(node, "elu", names[2], node.inputs[0])
    below = scale_node(node, names[3], elu.output, scale * alpha)
    total = made(node, "Add", node.name, [above.output, below.output])
    return [relu, above, elu, below, total]


@lowers(FUNCTION_LAYERS, "ReLU")
def _relu(node: Node, site: Site) -> list[Node]:
    """A leaky one, or one with a ceiling, by the functions that there are."""
    slope, ceiling = (
        float(str(node.attributes[name] or 0.0))
        for name in ("negative_slope", "max_value")
    )
    if slope:
        leaky = made(node, "LeakyReLU", node.name, node.inputs, {"alpha": slope})
        return [replace(leaky, activation="leaky_relu")]
    if ceiling in (0.0, _SIX):
        return [node]
    if math.isinf(ceiling):
        return [replace(node, attributes={**node.attributes, "max_value": None})]
    before, after = (
        site.free_name(f"{node.name}_{part}") for part in ("inner", "relu6")
    )
    inner = scale_node(node, before, node.inputs[0], _SIX / ceiling)
    clamp = function_node(node, "relu6", after, inner.output)
    return [inner, clamp, scale_node(node, node.name, clamp.output, ceiling / _SIX)]


@lowers(FUNCTION_LAYERS, "PReLU")
def _prelu(node: Node, site: Site) -> list[Node]:
    """``relu(x) - alpha * relu(-x)``, the slopes a kernel that learns."""
    names = [
        site.free_name(f"{node.name}_{part}")
        for part in ("relu", "negative", "negative_relu", "slope")
    ]
    above = function_node(node, "relu", names[0], node.inputs[0])
    negative = scale_node(node, names[1], node.inputs[0], -1.0)
    below = function_node(node, "relu", names[2], negative.output)
    batch, *sizes = node.shapes[0]
    image = (*(1 for _ in range(3 - len(sizes))), *sizes)
    slopes = -np.broadcast_to(node.weights["alpha"].reshape(-1), (sizes[-1] or 1,))
    lifted = _reshaped(node, site, below.output, (batch, *image))
    sloped = made(
        node,
        "DepthwiseConv2D",
        names[3],
        [(lifted or below).output],
        {"kernel_size": 1, "use_bias": False},
        weights={"depthwise_kernel": slopes.reshape(1, 1, -1, 1).copy()},
        shapes=((batch, *image),),
    )
    lowered = _reshaped(node, site, sloped.output, node.shapes[0]) if lifted else None
    total = made(node, "Add", node.name, [above.output, (lowered or sloped).output])
    made_here = [above, negative, below, lifted, sloped, lowered, total]
    return [one for one in made_here if one is not None]


def _reshaped(node: Node, site: Site, source: TensorRef, shape: Shape) -> Node | None:
    """Returns a node that gives a tensor another number of axes; None for an image."""
    if len(node.shapes[0]) == len(shape) == 4:
        return None
    target = tuple(-1 if size is None else size for size in shape[1:])
    name = site.free_name(f"{node.name}_shape")
    attributes = {"target_shape": target}
    return made(node, "Reshape", name, [source], attributes, shapes=(shape,))
