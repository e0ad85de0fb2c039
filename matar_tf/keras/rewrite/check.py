"""What cannot be quantized, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import replace
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike

from matar_tf.errors import ModelError
from matar_tf.keras.rewrite.graph import Graph, Node, Shape
from matar_tf.keras.rewrite.kinds import (
    INPUT,
    activation_row,
    is_compute,
    row_of,
    row_of_kind,
)
from matar_tf.keras.rewrite.lowered_checks import FORM_CHECKS
from matar_tf.keras.rewrite.lowered_volumes import VOLUMES
from matar_tf.layer_kinds import ACTIVATIONS, LAYER_KINDS

__all__ = [
    "end_refusals",
    "float_reasons",
    "has_other_activation",
    "raise_refusals",
    "refusals",
]

_FUNCTIONS = {name for name, row in ACTIVATIONS.items() if row.is_function}
_BLENDED = {1, 2, 4, 8}  # factors whose weights are exact
_MOST_AXES = 5  # that runtimes take
_MOST_AXES_MULTIPLIED = 4  # that the converter brings to integers
_MAX_VALUES = 1 << 26  # of a sample, 256 MiB as floats: an image of 8192 x 8192
_MAX_TENSOR = 1 << 28  # what all tensors of a file may take, a byte each
_Check: TypeAlias = "Callable[[Node], None]"
# Of arguments, by kind: whether integer kernels compute them, whether any form can.
_CHECKS: dict[str, _Check] = dict(FORM_CHECKS)
_REFUSALS: dict[str, _Check] = {}


def _checks(
    *kinds: str, table: dict[str, _Check] = _CHECKS
) -> Callable[[_Check], _Check]:
    def register(check: _Check) -> _Check:
        table.update(dict.fromkeys(kinds, check))
        return check

    return register


def refusals(graph: Graph, *, only: Collection[str] | None = None) -> list[str]:
    """Returns why a network cannot be quantized, one sentence for each fault.

    Args:
      graph: A float network.
      only: Names of the layers to check; None for all.
    """
    found = list(graph.refusals)
    for node in graph.nodes:
        if only is None or node.origin in only:
            found += _faults(node, _NO_FORM, _REFUSALS)
            if _has_no_float_form(node):
                found += _float_faults(node)
    if all(node.kind == INPUT for node in graph.nodes):
        found.append(f"Expected layers to quantize, got none in {graph.name!r}.")
    return list(dict.fromkeys(found))


def float_reasons(
    graph: Graph, *, only: Collection[str] | None = None
) -> dict[str, list[str]]:
    """Returns why no integer kernels compute layers, by the name of each.

    One sentence for each fault. Such layers are computed in float.

    Args:
      graph: A float network.
      only: Names of the layers to check; None for all.
    """
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        is_checked = only is None or node.origin in only
        faults = _float_faults(node) if is_checked else []
        if faults and not _has_no_float_form(node):
            found[node.name] = faults
    return found


def _float_faults(node: Node) -> list[str]:
    """Returns why no integer kernel computes a node."""
    if node.float_reason:
        return [node.float_reason]
    is_known = node.kind in LAYER_KINDS
    return list(_faults(node, _NO_INTEGERS, _CHECKS)) if is_known else []


def has_other_activation(node: Node) -> bool:
    """Whether an activation function is all that no integer kernel computes here."""
    plain = replace(node, activation="linear")
    is_plain = is_compute(plain) or row_of(plain).folds_norm
    return is_plain and bool(_float_faults(node)) and not _float_faults(plain)


def _has_no_float_form(node: Node) -> bool:
    """Whether the converter brings the kernel of a node to integers by itself."""
    kernel = row_of_kind(node.kind).kernel
    is_transposed = kernel is not None and kernel.is_transposed
    return is_transposed and not has_other_activation(node)


def end_refusals(inputs: Mapping[str, Shape]) -> list[str]:
    """Returns why a whole network cannot be packaged, whatever its layers are.

    Args:
      inputs: Shape of each input, with the batch axis, by name; None for a size that
        packaging is given.
    """
    return [
        f"Expected inputs of at most {_MAX_VALUES} values, got {shape} for {one!r}: "
        "the converter and the runtimes hold a whole sample; build the model for "
        "smaller ones."
        for one, shape in inputs.items()
        if math.prod(size or 1 for size in shape[1:]) > _MAX_VALUES
    ]


def raise_refusals(name: str, found: Sequence[str]) -> None:
    """Raises all of the refusals of a network at once, if there are any.

    Args:
      name: Name of the network.
      found: Sentences.

    Raises:
      ModelError: One refusal as it is; several each on a line of its own.
    """
    if len(found) > 1:
        title = (
            f"Expected a network that can be quantized, got {name!r} with "
            f"{len(found)} things to change:"
        )
        raise ModelError("\n  ".join([title, *found]))
    if found:
        raise ModelError(found[0])


def _faults(
    node: Node, checks: Iterable[_Check], of_kinds: Mapping[str, _Check]
) -> Iterator[str]:
    """Yields what checks, and that of its kind, find wrong with a node."""
    for check in (*checks, of_kinds.get(node.kind, _takes)):
        try:
            check(node)
        except ModelError as error:
            yield str(error)


def _takes(_node: Node) -> None:
    """Finds nothing wrong."""


def _check_activation(node: Node) -> None:
    if node.activation not in _FUNCTIONS and row_of(node).activation in (None, ""):
        raise ModelError(
            f"Expected one of the activations {', '.join(sorted(_FUNCTIONS))} in layer "
            f"{node.name!r} ({node.kind}), got {node.activation!r}, which no integer "
            "kernel computes here; change it, and train anew."
        )


def _check_reading(node: Node) -> None:
    if node.refusal:
        raise ModelError(node.refusal)


def _is_multiplied(node: Node) -> bool:
    """Whether a node has a kernel, or becomes layers that have one."""
    row = row_of(node)
    if node.kind in FORM_CHECKS or node.kind in VOLUMES:
        return False  # put on fewer axes
    is_made = not row.operators and not row.is_identity and row.activation is None
    is_scaled = node.attributes.get("max_value") not in (None, 6.0)
    is_scaled |= activation_row(node).is_composite
    return row.kernel is not None or is_scaled or (is_made and node.kind != INPUT)


def _check_shapes(node: Node) -> None:
    """Refuses tensors that integer kernels do not take."""
    for shape in node.shapes if _is_multiplied(node) else ():
        if len(shape) > _MOST_AXES_MULTIPLIED:
            raise ModelError(
                f"Expected at most {_MOST_AXES_MULTIPLIED} axes, with that of the "
                f"batch, of what {node.name!r} ({node.kind}) makes, got {shape}; "
                "reshape or flatten it."
            )


def _check_number(node: Node) -> None:
    given = node.arguments[0] if node.arguments else None
    if isinstance(given, list) and len(cast("list[object]", given)) > len(node.inputs):
        raise ModelError(
            f"Expected tensors alone for {node.name!r} ({node.kind}), got a constant "
            "among them; write x + constant or x * constant, or leave it out."
        )
    if len(node.inputs) < row_of(node).min_inputs:
        raise ModelError(
            f"Expected at least two tensors for {node.name!r} "
            f"({node.kind}), got one; leave the layer out."
        )


def _check_axes(node: Node) -> None:
    data_format = node.attributes.get("data_format")
    given = node.attributes.get("axis", -1)
    if given in (None, [], ()) or row_of(node).joins:
        return  # one number for all, or any axis
    is_several = isinstance(given, (list, tuple))
    axes = list(cast("Iterable[object]", given)) if is_several else [given]
    last = len(node.shapes[0]) - 1
    if data_format not in (None, "channels_last") or axes not in ([-1], [last]):
        axis = axes[0] if len(axes) == 1 else axes
        raise ModelError(
            f"Expected channels on the last axis in layer {node.name!r}, got "
            f"data_format {data_format!r} and axis {axis!r}; bring them there "
            "(Permute)."
        )


@_checks("SeparableConv1D", "SeparableConv2D", table=_REFUSALS)
def _check_parts(node: Node) -> None:
    """Refuses regularizers and constraints that quantizing would lose."""
    for key, value in node.attributes.items():
        if value is not None and key.endswith(("_regularizer", "_constraint")):
            raise ModelError(
                f"Expected no {key} in {node.name!r}, which is replaced by a layer of "
                "another kind, got one; leave it out of the model to quantize."
            )


@_checks("BatchNormalization", table=_REFUSALS)
def _check_norm(node: Node) -> None:
    """Refuses what the replacement cannot be told where it is called, too."""
    _check_parts(node)
    for name in ("renorm", "synchronized"):
        if node.attributes.get(name):
            raise ModelError(
                f"Expected the batch norm {node.name!r} without {name}, got one with "
                "it, which the multi-bitwidth one does not know; leave it out."
            )
    told = {name: value for name, value in node.keywords.items() if value is not None}
    if told:
        raise ModelError(
            f"Expected the batch norm {node.name!r} to be called on a tensor alone, "
            f"got {told}; leave that out."
        )


@_checks("UpSampling2D")
def _check_enlarging(node: Node) -> None:
    method = node.attributes.get("interpolation", "nearest")
    sizes = set(cast("Iterable[int]", node.attributes["size"]))
    if method != "nearest" and not (method == "bilinear" and sizes <= _BLENDED):
        raise ModelError(
            f"Expected interpolation 'nearest', or 'bilinear' by {sorted(_BLENDED)}, "
            f"in layer {node.name!r}, got {method!r} by {sorted(sizes)}, which no "
            "integer kernel computes exactly; change it."
        )


@_checks("Conv1DTranspose", "Conv2DTranspose")
def _check_transposed(node: Node) -> None:
    told = [node.attributes.get(name) for name in ("output_padding", "dilation_rate")]
    if told[0] is not None or set(np.ravel(cast("ArrayLike", told[1]))) != {1}:
        raise ModelError(
            f"Expected no output_padding and no dilation_rate in {node.name!r}, got "
            f"{told[0]} and {told[1]}, which the integer kernel does not know; leave "
            "them out."
        )
    sizes, strides = (
        [int(one) for one in np.ravel(cast("ArrayLike", node.attributes[name]))]
        for name in ("kernel_size", "strides")
    )
    is_covered = all(m >= n for m, n in zip(sizes, strides, strict=True))
    if node.attributes.get("padding") == "same" and not is_covered:
        raise ModelError(
            f"Expected a kernel of at least the strides {strides} in {node.name!r}, "
            f"got {sizes} with padding 'same', which no integer kernel computes in "
            "batches; take a larger kernel, or padding 'valid'."
        )


@_checks("Concatenate", table=_REFUSALS)
def _check_join(node: Node) -> None:
    axis = node.attributes.get("axis")
    if axis in (0, -len(node.shapes[0])):
        raise ModelError(
            f"Expected {node.name!r} to join tensors of each sample, got axis {axis}, "
            "that of samples; choose another."
        )


@_checks("ReLU")
def _check_ceiling(node: Node) -> None:
    slope, ceiling = (node.attributes.get(k) for k in ("negative_slope", "max_value"))
    if ceiling is not None and (slope or not float(str(ceiling)) > 0.0):
        raise ModelError(
            f"Expected {node.name!r} to have a slope or a ceiling above 0, got "
            f"negative_slope {slope} and max_value {ceiling}, which no integer kernel "
            "computes; leave one out."
        )


@_checks("ELU")
def _check_elu(node: Node) -> None:
    if node.attributes.get("alpha") != 1.0 and len(node.shapes[0]) > (
        _MOST_AXES_MULTIPLIED
    ):
        raise ModelError(
            f"Expected at most {_MOST_AXES_MULTIPLIED} axes, with that of the batch, "
            f"of what {node.name!r} makes, got {node.shapes[0]}; reshape it, or take "
            "an alpha of 1."
        )


@_checks("PReLU")
def _check_slopes(node: Node) -> None:
    _check_parts(node)
    shape = node.weights["alpha"].shape
    if set(shape[:-1]) - {1}:
        raise ModelError(
            f"Expected one slope a channel in {node.name!r}, got slopes of shape "
            f"{shape}; give PReLU shared_axes=[1, 2]."
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


def _check_rank(node: Node) -> None:
    for shape in node.shapes:
        if len(shape) > _MOST_AXES:
            raise ModelError(
                f"Expected at most {_MOST_AXES} axes, with that of the batch, of what "
                f"{node.name!r} ({node.kind}) makes, got {shape}, which no runtime "
                "takes; reshape it, or take layers of fewer axes."
            )


def _check_size(node: Node) -> None:
    for shape in node.shapes if node.kind != INPUT else ():  # see `end_refusals`
        if 0 in shape[1:]:
            raise ModelError(
                f"Expected sizes of at least 1 of what {node.name!r} ({node.kind}) "
                f"makes, got {shape}; leave it out."
            )
        if math.prod(size or 1 for size in shape[1:]) > _MAX_TENSOR:
            raise ModelError(
                f"Expected layers that make at most {_MAX_TENSOR} values of a sample, "
                f"got {shape} from {node.name!r} ({node.kind}), which no runtime here "
                "takes; build the model for smaller inputs."
            )


# What no form of a network can have, and what integer kernels do not compute.
_NO_FORM = (_check_size, _check_rank, _check_reading)
_NO_INTEGERS = (
    _check_activation,
    _check_shapes,
    _check_axes,
    _check_number,
    _check_ranges,
)
