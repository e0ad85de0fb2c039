"""Layers that no operator computes alone, put together from layers that one does.

A lowering takes a layer's node and returns the nodes in its place, the last of which
has its name. `lower` applies them until none is left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike

from matar_tf.keras.rewrite.graph import (
    Array,
    Graph,
    Node,
    Shape,
    TensorRef,
    map_refs,
)
from matar_tf.keras.rewrite.kinds import (
    SCALE,
    activation_row,
    is_activation,
    is_identity,
    row_of,
    row_of_kind,
)

__all__ = ["lower"]

_SIX: Final = 6.0
_LEAST_DEVIATION: Final = 1e-7  # Keras' own epsilon


class _Site:
    """Where a layer is lowered: the network before, and what is made of it so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: dict[str, Node] = {}
        self._names = set(graph.by_name)

    def free_name(self, wanted: str) -> str:
        """Returns a name that no node has, and takes it."""
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}_{number}"
        self._names.add(name)
        return name

    def maker(self, node: Node) -> Node:
        """Returns the node whose values a node reads, past those that keep them."""
        above = self.nodes[node.inputs[0].node]
        while is_identity(above):
            above = self.nodes[above.inputs[0].node]
        return above

    def shape(self, tensor: TensorRef) -> Shape:
        """Returns the shape of a tensor of what is made so far."""
        return self.nodes[tensor.node].shapes[tensor.index]

    def is_read_once(self, node: Node) -> bool:
        """Whether a node of the network before reads what only it reads."""
        above = self.graph.by_name.get(node.name)
        if above is None:
            return False  # made for another one
        while True:
            above = self.graph.parents(above)[0]
            if len(self.graph.consumers(above)) != 1:
                return False
            if not is_identity(above):
                return True


Lowering: TypeAlias = "Callable[[Node, _Site], Sequence[Node]]"
_KINDS: Final[dict[str, Lowering]] = {}
_FUNCTIONS: Final[dict[str, Lowering]] = {}  # by the activation function


def _lowers(table: dict[str, Lowering], *names: str) -> Callable[[Lowering], Lowering]:
    def register(lowering: Lowering) -> Lowering:
        table.update(dict.fromkeys(names, lowering))
        return lowering

    return register


def lower(graph: Graph, *, only: Collection[str] | None = None) -> Graph:
    """Returns a float network without layers that others put together.

    Args:
      graph: A float network that passed `check_graph`.
      only: Names of the layers to prepare; None for all. Others stay as they are.
    """
    site = _Site(graph)
    tensors: dict[TensorRef, TensorRef] = {}
    for node in graph.nodes:
        new = replace(
            node,
            arguments=cast(
                "tuple[Any, ...]", map_refs(node.arguments, tensors.__getitem__)
            ),
            keywords=cast(
                "dict[str, Any]", map_refs(node.keywords, tensors.__getitem__)
            ),
        )
        is_touched = only is None or node.name in only
        made = _expanded(new, site) if is_touched else [new]
        site.nodes[made[-1].name] = made[-1]
        for index in range(len(node.shapes)):
            tensors[TensorRef(node.name, index)] = TensorRef(made[-1].name, index)
    return Graph(
        name=graph.name,
        nodes=tuple(site.nodes.values()),
        inputs=graph.inputs,
        outputs=tuple(tensors[ref] for ref in graph.outputs),
    )


def _expanded(node: Node, site: _Site) -> list[Node]:
    lowering = _KINDS.get(node.kind)
    if lowering is None and activation_row(node).is_composite:
        is_alone = is_activation(node)
        lowering = _FUNCTIONS[node.activation] if is_alone else _split_function
    if lowering is None:
        return [node]
    found: list[Node] = []
    for one in lowering(node, site):
        # What is lowered to its own kind is lowered enough.
        found += [one] if one.kind == node.kind else _expanded(one, site)
        site.nodes.update({made.name: made for made in found})
    return found


def _made(
    node: Node,
    kind: str,
    name: str,
    inputs: Sequence[TensorRef],
    attributes: Mapping[str, object] | None = None,
    **changes: Any,
) -> Node:
    """Returns a layer of another kind in the place of a node, of its shape."""
    arguments = (list(inputs),) if row_of_kind(kind).min_inputs > 1 else tuple(inputs)
    return replace(
        node,
        name=name,
        kind=kind,
        arguments=arguments,
        keywords={},
        attributes={"name": name, **(attributes or {})},
        **{"activation": "linear", "weights": {}, **changes},
    )


def _function(node: Node, activation: str, name: str, source: TensorRef) -> Node:
    return _made(
        node,
        "Activation",
        name,
        [source],
        {"activation": activation},
        activation=activation,
    )


def _scale(
    node: Node,
    name: str,
    source: TensorRef,
    factor: ArrayLike,
    offset: ArrayLike | None = None,
) -> Node:
    """Returns a node that makes ``factor * x + offset``, of each channel."""
    channels = int(node.shapes[0][-1] or 0)
    weights = {
        "depthwise_kernel": _of_channels(factor, channels).reshape(1, 1, -1, 1),
    }
    if offset is not None:
        weights["bias"] = _of_channels(offset, channels)
    uses_bias = {"use_bias": offset is not None}
    return _made(node, SCALE, name, [source], uses_bias, weights=weights)


def _of_channels(values: ArrayLike, channels: int) -> Array:
    flat = np.asarray(values, np.float32).reshape(-1)
    return np.broadcast_to(flat, (channels,)).copy()


def _split_function(node: Node, site: _Site) -> list[Node]:
    """A layer, and the activation function that no operator computes, apart."""
    name = site.free_name(f"{node.name}_{node.activation}")
    attributes = {**node.attributes, "activation": "linear"}
    return [
        replace(node, activation="linear", attributes=attributes),
        _function(node, node.activation, name, node.output),
    ]


@_lowers(_FUNCTIONS, "silu", "swish")
def _swish(node: Node, site: _Site) -> list[Node]:
    """``x * sigmoid(x)``."""
    name = site.free_name(f"{node.name}_sigmoid")
    gate = _function(node, "sigmoid", name, node.inputs[0])
    return [gate, _made(node, "Multiply", node.name, [node.inputs[0], gate.output])]


def _clamped(
    node: Node, site: _Site, name: str, slope: float, offset: float
) -> list[Node]:
    """``relu6(slope * x + offset) / 6``."""
    inner = site.free_name(f"{node.name}_inner")
    clamp = site.free_name(f"{node.name}_relu6")
    before = _scale(node, inner, node.inputs[0], slope, offset)
    ceiling = _function(node, "relu6", clamp, before.output)
    return [before, ceiling, _scale(node, name, ceiling.output, 1.0 / 6.0)]


@_lowers(_FUNCTIONS, "hard_sigmoid")
def _hard_sigmoid(node: Node, site: _Site) -> list[Node]:
    """Keras 2's ``clip(0.2 * x + 0.5, 0, 1)``, as ``relu6(1.2 * x + 3) / 6``."""
    return _clamped(node, site, node.name, 1.2, 3.0)


@_lowers(_FUNCTIONS, "hard_swish")
def _hard_swish(node: Node, site: _Site) -> list[Node]:
    """``x * relu6(x + 3) / 6``."""
    gate = _clamped(node, site, site.free_name(f"{node.name}_gate"), 1.0, 3.0)
    sources = [node.inputs[0], gate[-1].output]
    return [*gate, _made(node, "Multiply", node.name, sources)]


_SELU_ALPHA: Final = 1.6732632423543772  # Klambauer et al., NeurIPS 2017
_SELU_SCALE: Final = 1.0507009873554805


@_lowers(_FUNCTIONS, "selu")
def _selu(node: Node, site: _Site) -> list[Node]:
    return _scaled_elu(node, site, _SELU_ALPHA, _SELU_SCALE)


@_lowers(_KINDS, "ELU")
def _elu(node: Node, site: _Site) -> list[Node]:
    alpha = float(str(node.attributes["alpha"]))
    if alpha == 1.0:
        return [node]
    return _scaled_elu(node, site, alpha, 1.0)


def _scaled_elu(node: Node, site: _Site, alpha: float, scale: float) -> list[Node]:
    """``scale * ((1 - alpha) * relu(x) + alpha * elu(x))``."""
    names = [
        site.free_name(f"{node.name}_{part}")
        for part in ("relu", "relu_scale", "elu", "elu_scale")
    ]
    relu = _function(node, "relu", names[0], node.inputs[0])
    above = _scale(node, names[1], relu.output, scale * (1.0 - alpha))
    elu = _function(node, "elu", names[2], node.inputs[0])
    below = _scale(node, names[3], elu.output, scale * alpha)
    total = _made(node, "Add", node.name, [above.output, below.output])
    return [relu, above, elu, below, total]


@_lowers(_KINDS, "ReLU")
def _relu(node: Node, site: _Site) -> list[Node]:
    """A leaky one, or one with a ceiling, by the functions that there are."""
    slope, ceiling = (
        float(str(node.attributes[name] or 0.0))
        for name in ("negative_slope", "max_value")
    )
    if slope:
        return [_made(node, "LeakyReLU", node.name, [node.inputs[0]], {"alpha": slope})]
    if ceiling in (0.0, _SIX):
        return [node]
    before, after = (
        site.free_name(f"{node.name}_{part}") for part in ("inner", "relu6")
    )
    inner = _scale(node, before, node.inputs[0], _SIX / ceiling)
    clamp = _function(node, "relu6", after, inner.output)
    return [inner, clamp, _scale(node, node.name, clamp.output, ceiling / _SIX)]


@_lowers(_KINDS, "PReLU")
def _prelu(node: Node, site: _Site) -> list[Node]:
    """``relu(x) - alpha * relu(-x)``, the slopes a kernel that learns."""
    names = [
        site.free_name(f"{node.name}_{part}")
        for part in ("relu", "negative", "negative_relu", "slope")
    ]
    above = _function(node, "relu", names[0], node.inputs[0])
    negative = _scale(node, names[1], node.inputs[0], -1.0)
    below = _function(node, "relu", names[2], negative.output)
    slopes = -node.weights["alpha"].reshape(1, 1, -1, 1)
    sloped = _made(
        node,
        "DepthwiseConv2D",
        names[3],
        [below.output],
        {"kernel_size": 1, "use_bias": False},
        weights={"depthwise_kernel": slopes},
    )
    total = _made(node, "Add", node.name, [above.output, sloped.output])
    return [above, negative, below, sloped, total]


@_lowers(_KINDS, "Rescaling")
def _rescaling(node: Node, site: _Site) -> list[Node]:
    factor, offset = (
        cast("ArrayLike", node.attributes[name]) for name in ("scale", "offset")
    )
    return [_scale(node, node.name, node.inputs[0], factor, offset)]


@_lowers(_KINDS, "Normalization")
def _normalization(node: Node, site: _Site) -> list[Node]:
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
        return [_scale(node, node.name, node.inputs[0], deviation, mean)]
    return [_scale(node, node.name, node.inputs[0], 1 / deviation, -mean / deviation)]


@_lowers(_KINDS, SCALE)
def _composed(node: Node, site: _Site) -> list[Node]:
    """Scales in a row become one."""
    above = site.nodes[node.inputs[0].node]
    if above.kind != SCALE or not site.is_read_once(node):
        return [node]
    factors, offsets = zip(*map(_affine, (above, node)), strict=True)
    factor = factors[0] * factors[1]
    offset = offsets[0] * factors[1] + offsets[1]
    return [_scale(node, node.name, above.inputs[0], factor, offset)]


def _affine(node: Node) -> tuple[Array, Array]:
    factor = node.weights["depthwise_kernel"].reshape(-1)
    return factor, node.weights.get("bias", np.zeros_like(factor))


@_lowers(_KINDS, "Average")
def _average(node: Node, site: _Site) -> list[Node]:
    total = _made(node, "Add", site.free_name(f"{node.name}_sum"), node.inputs)
    share = 1.0 / len(node.inputs)
    return [total, _scale(node, node.name, total.output, share)]


@_lowers(_KINDS, "RepeatVector")
def _repeat(node: Node, site: _Site) -> list[Node]:
    name, channels = site.free_name(f"{node.name}_one"), node.shapes[0][-1]
    one = _made(node, "Reshape", name, node.inputs, {"target_shape": (1, channels)})
    one = replace(one, shapes=((node.shapes[0][0], 1, channels),))
    size = {"size": node.attributes["n"]}
    return [one, _made(node, "UpSampling1D", node.name, [one.output], size)]


@_lowers(_KINDS, "Conv1D", "SeparableConv1D")
def _causal(node: Node, site: _Site) -> list[Node]:
    """A convolution that sees the past alone: padded on the left."""
    if node.attributes["padding"] != "causal":
        return [node]
    (size,), (dilation,) = (
        np.ravel(cast("ArrayLike", node.attributes[name])).tolist()
        for name in ("kernel_size", "dilation_rate")
    )
    before = dilation * (size - 1)
    shape = site.shape(node.inputs[0])
    pad = _made(
        node,
        "ZeroPadding1D",
        site.free_name(f"{node.name}_pad"),
        [node.inputs[0]],
        {"padding": (before, 0)},
        shapes=((shape[0], None if shape[1] is None else shape[1] + before, shape[2]),),
    )
    attributes = {**node.attributes, "padding": "valid"}
    return [pad, replace(node, arguments=(pad.output,), attributes=attributes)]


@_lowers(_KINDS, "BatchNormalization")
def _norm(node: Node, site: _Site) -> list[Node]:
    """A batch norm after a layer that it is folded into, which may be a scale.

    Two in a row become one: what the second makes of the first's output has the
    second's mean and deviation.
    """
    above = site.maker(node)
    if above.kind == node.kind and site.is_read_once(node):
        return _norm(_merged(above, node), site)
    is_last = above.activation == "linear" and site.is_read_once(node)
    if row_of(above).folds_norm and is_last and not above.is_copy:
        return [node]
    scale = _scale(node, site.free_name(f"{node.name}_scale"), node.inputs[0], 1.0)
    return [scale, replace(node, arguments=(scale.output,))]


def _merged(first: Node, second: Node) -> Node:
    """Returns the batch norm that does what two in a row do."""
    factor, offset = 1.0, 0.0
    for node in (first, second):
        scale, shift = _folded(node)
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


def _folded(norm: Node) -> tuple[Any, Any]:
    """Returns factor and offset of a batch norm's channels, float64."""
    mean = norm.weights["moving_mean"].astype(np.float64)
    variance = norm.weights["moving_variance"].astype(np.float64)
    deviation = np.sqrt(variance + float(str(norm.attributes["epsilon"])))
    factor = norm.weights.get("gamma", np.ones_like(mean)) / deviation
    return factor, norm.weights.get("beta", np.zeros_like(mean)) - mean * factor
