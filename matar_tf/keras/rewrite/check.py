"""What cannot be quantized, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import cast

from matar_tf.errors import ModelError, did_you_mean
from matar_tf.keras.rewrite.graph import Graph, Node
from matar_tf.keras.rewrite.kinds import row_of
from matar_tf.layer_kinds import ACTIVATIONS, LAYER_KINDS

__all__ = ["check_graph"]

_FUNCTIONS = {name for name, row in ACTIVATIONS.items() if row.is_function}
_CHECKS: dict[str, Callable[[Node], None]] = {}  # of arguments, by kind


def _checks(*kinds: str) -> Callable[[Callable[[Node], None]], Callable[[Node], None]]:
    def register(check: Callable[[Node], None]) -> Callable[[Node], None]:
        _CHECKS.update(dict.fromkeys(kinds, check))
        return check

    return register


def check_graph(graph: Graph, *, only: Collection[str] | None = None) -> None:
    """Refuses what cannot be quantized.

    Args:
      graph: A float network.
      only: Names of the layers to check; None for all.

    Raises:
      ModelError: For a kind, an activation function or arguments of a layer that no
        integer kernel computes.
    """
    for node in graph.nodes:
        if only is None or node.name in only:
            _check_node(node)


def _check_node(node: Node) -> None:
    if node.kind not in LAYER_KINDS:
        known = [name for name, row in LAYER_KINDS.items() if not row.is_ours]
        raise ModelError(
            node.refusal
            or f"Layer {node.name!r} is of kind {node.kind}, which has no integer "
            f"kernel here. {did_you_mean(node.kind, known)}"
        )
    if node.activation not in _FUNCTIONS and row_of(node).activation in (None, ""):
        raise ModelError(
            f"Layer {node.name!r} has the activation {node.activation!r}, which has no "
            f"integer kernel here. {did_you_mean(node.activation, _FUNCTIONS)}"
        )
    if node.refusal:
        raise ModelError(node.refusal)
    _check_axes(node)
    if len(node.inputs) < row_of(node).min_inputs:
        raise ModelError(
            f"Expected at least two tensors for {node.name!r} "
            f"({node.kind}), got one; leave the layer out."
        )
    _check_ranges(node)
    if node.kind in _CHECKS:
        _CHECKS[node.kind](node)


def _check_axes(node: Node) -> None:
    data_format = node.attributes.get("data_format")
    given = node.attributes.get("axis", -1)
    if given is None or row_of(node).joins:
        return  # one number for all, or any axis
    is_several = isinstance(given, (list, tuple))
    axes = list(cast("Iterable[object]", given)) if is_several else [given]
    last = len(node.shapes[0]) - 1
    if data_format not in (None, "channels_last") or axes not in ([-1], [last]):
        axis = axes[0] if len(axes) == 1 else axes
        raise ModelError(
            f"Expected channels on the last axis in layer {node.name!r}, got "
            f"data_format {data_format!r} and axis {axis!r}."
        )


@_checks("SeparableConv1D", "SeparableConv2D")
def _check_parts(node: Node) -> None:
    """Refuses regularizers and constraints that quantizing would lose."""
    for key, value in node.attributes.items():
        if value is not None and key.endswith(("_regularizer", "_constraint")):
            raise ModelError(
                f"Expected no {key} in {node.name!r}, which is replaced by a layer of "
                "another kind, got one; leave it out of the model to quantize."
            )


@_checks("BatchNormalization")
def _check_norm(node: Node) -> None:
    """Refuses what the replacement cannot be told where it is called, too."""
    _check_parts(node)
    told = {name: value for name, value in node.keywords.items() if value is not None}
    if told:
        raise ModelError(
            f"Expected the batch norm {node.name!r} to be called on a tensor alone, "
            f"got {told}; leave that out, and freeze the quantized model's by "
            "layer.trainable."
        )


def _check_ranges(node: Node) -> None:
    for name, (low, high) in row_of(node).ranges.items():
        value = float(str(node.attributes[name]))
        if not low <= value <= high:
            expected = f"{low:g}" if low == high else f"in {low:g}..{high:g}"
            raise ModelError(
                f"Expected the argument {name} of layer {node.name!r} ({node.kind}) "
                f"to be {expected}, got {value:g}, which no integer kernel computes "
                "here; change it."
            )
