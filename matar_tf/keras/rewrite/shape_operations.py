"""Operations that move values, or take some of them, as layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from matar_tf.keras.rewrite.graph import TensorRef, refs_in
from matar_tf.keras.rewrite.operation_calls import Call, Layer, UnknownOperationError

__all__ = ["SHAPE_READERS"]

_Reader: TypeAlias = "Callable[[Call], Layer]"
SHAPE_READERS: Final[dict[str, _Reader]] = {}  # by symbol


def _reads(*symbols: str) -> Callable[[_Reader], _Reader]:
    def register(reader: _Reader) -> _Reader:
        SHAPE_READERS.update(dict.fromkeys(symbols, reader))
        return reader

    return register


@_reads("reshape", "expand_dims", "compat.v1.squeeze", "squeeze")
def _reshape(call: Call) -> Layer:
    source = next(refs_in(call.arguments))
    batches = {shape[0] for shape in (call.shape_of(source), call.shapes[0])}
    sizes = call.shapes[0][1:]
    if batches != {None} or sizes.count(None) > 1:
        raise UnknownOperationError("mixes samples of a batch", "keep the first axis")
    target = tuple(-1 if size is None else size for size in sizes)
    return Layer(kind="Reshape", inputs=[source], attributes={"target_shape": target})


@_reads("transpose", "compat.v1.transpose")
def _transpose(call: Call) -> Layer:
    given = call.bound("a", "perm")
    perm = () if given["perm"] is None else np.ravel(given["perm"]).tolist()
    axes = [int(axis) for axis in perm]
    if not axes or axes[0] != 0:
        raise UnknownOperationError("moves the batch axis", "keep the first axis")
    attributes = {"dims": tuple(axes[1:])}
    return Layer(kind="Permute", inputs=[given["a"]], attributes=attributes)


@_reads("pad", "compat.v1.pad")
def _pad(call: Call) -> Layer:
    given = call.bound(
        "tensor",
        "paddings",
        "mode",
        "name",
        "constant_values",
        mode="CONSTANT",
        constant_values=0,
    )
    widths = [tuple(map(int, pair)) for pair in given["paddings"]]
    is_plain = str(given["mode"]).upper() == "CONSTANT" and not given["constant_values"]
    if not is_plain or any(widths[0]) or any(widths[-1]) or len(widths) not in (3, 4):
        raise UnknownOperationError(
            "pads otherwise than rows and columns with zeros", "use ZeroPadding2D"
        )
    inner = widths[1:-1]
    return Layer(
        kind=f"ZeroPadding{len(inner)}D",
        inputs=[given["tensor"]],
        attributes={"padding": tuple(inner) if len(inner) > 1 else inner[0]},
    )


_REDUCTIONS: Final = {
    "math.reduce_max": "GlobalMaxPooling",
    "math.reduce_mean": "GlobalAveragePooling",
}


@_reads(*_REDUCTIONS)
def _reduce(call: Call) -> Layer:
    given = call.bound("input_tensor", "axis", "keepdims", axis=None, keepdims=False)
    source = given["input_tensor"]
    rank = len(call.shape_of(source))
    axes = [] if given["axis"] is None else np.ravel(given["axis"]).tolist()
    inner = list(range(1, rank - 1))
    if sorted(int(axis) % rank for axis in axes) != inner or len(inner) not in (1, 2):
        raise UnknownOperationError(
            f"over the axes {given['axis']} has no layer here",
            f"take it over the axes {inner}",
        )
    return Layer(
        kind=f"{_REDUCTIONS[call.symbol]}{len(inner)}D",
        inputs=[source],
        attributes={"keepdims": bool(given["keepdims"])},
    )


@_reads("image.resize")
def _resize(call: Call) -> Layer:
    given = call.bound("images", "size", "method", method="bilinear")
    method = str(given["method"]).lower()
    before, after = call.shape_of(given["images"])[1:3], call.shapes[0][1:3]
    pairs = [(a or 0, b or 0) for a, b in zip(before, after, strict=True)]
    fits = all(a and b and b % a == 0 for a, b in pairs)
    if not fits or method not in ("bilinear", "nearest"):
        raise UnknownOperationError(
            f"from {before} to {after} by {method} has no integer kernel here",
            "use UpSampling2D, by whole factors, nearest or bilinear",
        )
    size = tuple(b // a for a, b in pairs)
    return Layer(
        kind="UpSampling2D",
        inputs=[given["images"]],
        attributes={"size": size, "interpolation": method},
    )


_POOLS: Final = {
    "nn.avg_pool2d": "AveragePooling2D",
    "nn.max_pool2d": "MaxPooling2D",
}


@_reads(*_POOLS)
def _pool(call: Call) -> Layer:
    given = call.bound("input", "ksize", "strides", "padding")
    if not isinstance(given["padding"], str):
        raise UnknownOperationError(
            "pads by numbers", "use tf.pad, or padding 'SAME' or 'VALID'"
        )
    return Layer(
        kind=_POOLS[call.symbol],
        inputs=[given["input"]],
        attributes={
            "pool_size": _sizes(given["ksize"]),
            "strides": _sizes(given["strides"]),
            "padding": given["padding"].lower(),
        },
    )


def _sizes(value: Any) -> tuple[int, int]:
    """Returns the height and the width of one number, two, or one an axis."""
    sizes = [int(one) for one in np.ravel(value)]
    if len(sizes) == 4 and sizes[0] == sizes[3] == 1:
        sizes = sizes[1:3]
    if len(sizes) not in (1, 2):
        raise UnknownOperationError(
            "pools over samples or channels", "pool over rows and columns"
        )
    return sizes[0], sizes[-1]


@_reads("__operators__.getitem")
def _slice(call: Call) -> Layer:
    """Rows and columns cut off are a crop; all else that a slice takes is a `Slice`."""
    source, given = call.arguments[0], call.arguments[1]
    shape = call.shape_of(source)
    parts = _parts(given if isinstance(given, (list, tuple)) else (given,), shape)
    crops = [_crop(part, size) for part, size in zip(parts, shape, strict=True)]
    inner = crops[1:-1]
    if len(shape) not in (3, 4) or None in inner or parts[-1] is not None:
        return _sliced(source, [parts])
    return Layer(
        kind=f"Cropping{len(inner)}D",
        inputs=[source],
        attributes={"cropping": tuple(inner) if len(inner) > 1 else inner[0]},
    )


def _crop(part: Any, size: int | None) -> tuple[int, int] | None:
    """Returns what a slice cuts off at both ends of an axis, if it does no more."""
    if part is None:
        return 0, 0
    return (part[0], (size or 0) - part[1]) if part[2:] == (1,) else None


def _sliced(source: Any, outputs: Sequence[Sequence[Any]]) -> Layer:
    parts = [[part and list(part) for part in one[1:]] for one in outputs]
    return Layer(kind="Slice", inputs=[source], attributes={"parts": parts})


def _parts(given: Any, shape: Any) -> list[Any]:
    """Returns begin, end and step of a slice along each axis.

    A begin alone where one value is taken, None where all are.
    """
    refusal = UnknownOperationError(
        "takes other parts than ranges of axes and single places",
        "take ranges forwards, and all samples",
    )
    filled = list(given)
    if any(one is None or isinstance(one, TensorRef) for one in filled):
        raise refusal
    missing = [slice(None)] * (len(shape) - sum(one is not Ellipsis for one in filled))
    at = next((i for i, one in enumerate(filled) if one is Ellipsis), None)
    if at is None:
        filled += missing
    else:
        filled[at : at + 1] = missing
    found: list[Any] = []
    for size, part in zip(shape, filled, strict=True):
        if isinstance(part, Mapping):
            part = slice(*(part[name] for name in ("start", "stop", "step")))
        if part == slice(None) or part == slice(None, None, 1):
            found.append(None)
            continue
        if size is None:
            raise refusal
        if isinstance(part, slice):
            start, stop, step = part.indices(size)
            if step < 1 or stop <= start:
                raise refusal
            is_whole = (start, stop, step) == (0, size, 1)
            found.append(None if is_whole else (start, stop, step))
        else:
            found.append((int(part) % size,))
    if found[0] is not None:
        raise refusal
    return found


@_reads("split")
def _split(call: Call) -> Layer:
    given = call.bound("value", "num_or_size_splits", "axis", axis=0)
    axis = int(given["axis"]) % len(call.shape_of(given["value"]))
    return _along(call, given["value"], axis, is_shrunk=False)


@_reads("unstack")
def _unstack(call: Call) -> Layer:
    given = call.bound("value", "num", "axis", num=None, axis=0)
    axis = int(given["axis"]) % len(call.shape_of(given["value"]))
    return _along(call, given["value"], axis, is_shrunk=True)


def _along(call: Call, source: Any, axis: int, *, is_shrunk: bool) -> Layer:
    """The parts of a tensor along an axis."""
    shape = call.shape_of(source)
    if axis == 0 or shape[axis] is None:
        raise UnknownOperationError("mixes samples of a batch", "keep the first axis")
    outputs: list[list[Any]] = []
    begin = 0
    for made in call.shapes:
        end = begin + (1 if is_shrunk else int(made[axis] or 0))
        parts: list[Any] = [None] * len(shape)
        parts[axis] = (begin,) if is_shrunk else (begin, end, 1)
        outputs.append(parts)
        begin = end
    return _sliced(source, outputs)
