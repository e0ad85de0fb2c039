"""What keeps a layer from being others in other words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, cast

from matar_tf.errors import ModelError
from matar_tf.keras.rewrite.graph import Node
from matar_tf.keras.rewrite.lowered_frames import frame_node
from matar_tf.keras.rewrite.lowered_products import einsum_form, is_bound

__all__ = ["FORM_CHECKS"]

_MOST_AXES: Final = 4  # of a tensor that a dense layer reads
_Check = Callable[[Node], None]
FORM_CHECKS: Final[dict[str, _Check]] = {}  # by kind


def _checks(kind: str) -> Callable[[_Check], _Check]:
    def register(check: _Check) -> _Check:
        FORM_CHECKS[kind] = check
        return check

    return register


@_checks("EinsumDense")
def _check_einsum(node: Node) -> None:
    if einsum_form(node) is None:
        raise ModelError(
            f"Expected {node.name!r} to be a dense layer in other words, got the "
            f"equation {node.attributes['equation']!r}, or a bias or constraint of "
            "other axes; sum over the last axis, with one kernel for all places."
        )


@_checks("TimeDistributed")
def _check_frames(node: Node) -> None:
    if frame_node(node) is None:
        inner = cast("Mapping[str, object]", node.attributes["layer"])
        raise ModelError(
            f"Expected a layer of Keras in {node.name!r} (TimeDistributed) that frames "
            "can go through side by side, such as Dense, Conv2D or a global pool, got "
            f"{inner['class_name']}; put layers one by one into TimeDistributed."
        )


@_checks("MultiHeadAttention")
def _check_projections(node: Node) -> None:
    if is_bound(node):
        raise ModelError(
            f"Expected no constraints in {node.name!r}, whose kernels become those of "
            "dense layers, got one; leave it out."
        )
    num_axes = len(node.shapes[0]) + 3 - node.weights["attention_output/kernel"].ndim
    if num_axes > _MOST_AXES:
        raise ModelError(
            f"Expected {node.name!r} (MultiHeadAttention) to read tensors of at most "
            f"{_MOST_AXES} axes, with that of the batch, got {num_axes}; "
            "reshape them."
        )
