"""Operations on tensors, as a network's ``x + 3`` or ``tf.nn.relu6(x)``, as layers.

Keras keeps such an operation as a layer that holds a function of TensorFlow. Here each
is read as the layer that does the same.

Source: the signatures of TensorFlow's public functions, by their symbols
(``math.multiply``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from matar_tf.keras.rewrite.graph import TensorRef, refs_in
from matar_tf.keras.rewrite.operation_calls import (
    Call,
    Layer,
    UnknownOperationError,
    only_tensors,
)

__all__ = ["read_operation"]


_Reader: TypeAlias = "Callable[[Call], Layer]"
_READERS: Final[dict[str, _Reader]] = {}
_FUNCTIONS: Final = {
    "math.exp": "exponential",
    "math.sigmoid": "sigmoid",
    "math.tanh": "tanh",
    "nn.elu": "elu",
    "nn.relu": "relu",
    "nn.relu6": "relu6",
    "nn.selu": "selu",
    "nn.sigmoid": "sigmoid",
    "nn.silu": "swish",
    "nn.swish": "swish",
    "nn.tanh": "tanh",
}


def read_operation(call: Call) -> Layer:
    """Returns the layer that does what an operation does.

    Raises:
      UnknownOperationError: If there is none here.
    """
    reader = _READERS.get(call.symbol)
    if reader is None:
        raise UnknownOperationError(
            "is no operation that a layer does here",
            "build it of layers, or leave it out",
        )
    return reader(call)


def _reads(*symbols: str) -> Callable[[_Reader], _Reader]:
    def register(reader: _Reader) -> _Reader:
        _READERS.update(dict.fromkeys(symbols, reader))
        return reader

    return register


def _activation(name: str, source: TensorRef) -> Layer:
    return Layer(
        kind="Activation",
        inputs=[source],
        attributes={"activation": name},
        activation=name,
    )


@_reads(*_FUNCTIONS)
def _function(call: Call) -> Layer:
    return _activation(_FUNCTIONS[call.symbol], _alone(call, but=1.0))


def _alone(call: Call, but: float | None = None) -> TensorRef:
    """Returns the one tensor of a function of one.

    Args:
      call: The operation.
      but: What may stand beside it: the value that a second argument has by default.
    """
    tensors = list(refs_in((call.arguments, call.keywords)))
    given = [*call.arguments, *(v for k, v in call.keywords.items() if k != "name")]
    others = [one for one in given if one is not None and one not in tensors]
    if len(tensors) != 1 or any(np.size(one) != 1 or one != but for one in others):
        raise UnknownOperationError(
            f"is called with {str(others)[:80]}, which no layer takes",
            "leave that out",
        )
    return tensors[0]


@_reads("nn.softmax", "nn.log_softmax")
def _softmax(call: Call) -> Layer:
    given = call.bound("logits", "axis", axis=-1)
    is_last = given["axis"] in (None, -1, len(call.shapes[0]) - 1)
    if call.symbol != "nn.softmax" or not is_last:
        raise UnknownOperationError(
            "has no integer kernel here", "use tf.nn.softmax over the last axis"
        )
    return _activation("softmax", given["logits"])


@_reads("nn.gelu")
def _gelu(call: Call) -> Layer:
    given = call.bound("features", "approximate", approximate=False)
    if given["approximate"]:
        raise UnknownOperationError(
            "by a hyperbolic tangent has no layer here", "leave approximate out"
        )
    return _activation("gelu", given["features"])


@_reads("nn.leaky_relu")
def _leaky(call: Call) -> Layer:
    given = call.bound("features", "alpha", alpha=0.2)
    return Layer(
        kind="LeakyReLU",
        inputs=[given["features"]],
        attributes={"alpha": float(given["alpha"])},
        activation="leaky_relu",
    )


@_reads("identity", "cast")
def _same(call: Call) -> Layer:
    given = call.bound("x", "dtype", dtype="float32")
    kind = getattr(given["dtype"], "name", given["dtype"])
    if kind != "float32":
        raise UnknownOperationError(f"to {kind} leaves float32", "leave it out")
    return _activation("linear", given["x"])


@_reads("clip_by_value")
def _clip(call: Call) -> Layer:
    given = call.bound("t", "clip_value_min", "clip_value_max")
    low, high = (given[f"clip_value_{end}"] for end in ("min", "max"))
    if np.size(low) != 1 or np.size(high) != 1 or float(low) or not float(high) > 0:
        raise UnknownOperationError(
            f"to {low}..{high} has no integer kernel here", "clip to 0 and a number"
        )
    ceiling = float(high) if np.isfinite(high) else None
    return Layer(
        kind="ReLU",
        inputs=[given["t"]],
        attributes={"max_value": ceiling, "negative_slope": 0.0, "threshold": 0.0},
        activation="relu",
    )


def _scale(source: TensorRef, call: Call, factor: Any, offset: Any = 0.0) -> Layer:
    channels = int(call.shape_of(source)[-1] or 0)
    return Layer(
        kind="Rescaling",
        inputs=[source],
        attributes={
            "scale": _of_channels(factor, channels),
            "offset": _of_channels(offset, channels),
        },
    )


def _of_channels(values: Any, channels: int) -> list[float]:
    """Returns one number for all, or one a channel, in a list."""
    array = np.asarray(values, np.float32)
    if not np.isfinite(array).all():
        raise UnknownOperationError("with infinity has no value", "leave it out")
    if array.size not in (1, channels) or (
        array.ndim and array.shape[-1] != array.size
    ):
        raise UnknownOperationError(
            f"with an array of shape {array.shape} has no integer kernel here",
            "use one number, or one a channel",
        )
    return array.reshape(-1).tolist()


_MERGES: Final = {
    "__operators__.add": "Add",
    "math.add": "Add",
    "math.maximum": "Maximum",
    "math.minimum": "Minimum",
    "math.multiply": "Multiply",
    "math.subtract": "Subtract",
}


@_reads(*_MERGES)
def _merge(call: Call) -> Layer:
    given = call.bound("x", "y")
    a, b = given["x"], given["y"]
    kind = _MERGES[call.symbol]
    if isinstance(a, TensorRef) and isinstance(b, TensorRef):
        return Layer(kind=kind, inputs=[a, b])
    tensor, constant = (a, b) if isinstance(a, TensorRef) else (b, a)
    if kind == "Add":
        return _scale(tensor, call, 1.0, constant)
    if kind == "Multiply":
        return _scale(tensor, call, constant)
    if kind == "Subtract":
        if tensor is a:
            return _scale(tensor, call, 1.0, -np.asarray(constant, np.float32))
        return _scale(tensor, call, -1.0, constant)
    if kind == "Maximum" and not np.any(constant):
        return _activation("relu", tensor)
    raise UnknownOperationError(
        "with a constant has no integer kernel here", "use tf.nn.relu or tf.nn.relu6"
    )


@_reads("math.truediv", "math.divide", "RealDiv")
def _divide(call: Call) -> Layer:
    given = call.bound("x", "y")
    if isinstance(given["y"], TensorRef):
        raise UnknownOperationError(
            "by a tensor has no integer kernel", "divide by a constant"
        )
    with np.errstate(divide="ignore"):
        factor = 1.0 / np.asarray(given["y"], np.float32)
    if not np.all(np.isfinite(factor)):
        raise UnknownOperationError("by 0 has no value", "divide by another number")
    return _scale(given["x"], call, factor)


@_reads("math.negative")
def _negative(call: Call) -> Layer:
    return _scale(_alone(call), call, -1.0)


@_reads("math.square")
def _square(call: Call) -> Layer:
    source = _alone(call)
    return Layer(kind="Multiply", inputs=[source, source])


@_reads("math.pow")
def _power(call: Call) -> Layer:
    given = call.bound("x", "y")
    if isinstance(given["y"], TensorRef) or np.any(np.asarray(given["y"]) != 2):
        raise UnknownOperationError(
            "to another power than 2 has no integer kernel", "use x * x"
        )
    return Layer(kind="Multiply", inputs=[given["x"], given["x"]])


@_reads("nn.bias_add")
def _bias_add(call: Call) -> Layer:
    given = call.bound("value", "bias")
    return _scale(given["value"], call, 1.0, given["bias"])


@_reads("math.add_n")
def _add_n(call: Call) -> Layer:
    given = call.bound("inputs")
    return Layer(kind="Add", inputs=only_tensors(given["inputs"]))


@_reads("concat")
def _concat(call: Call) -> Layer:
    given = call.bound("values", "axis", axis=-1)
    return Layer(
        kind="Concatenate",
        inputs=only_tensors(given["values"]),
        attributes={"axis": int(given["axis"])},
    )


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
    """Rows and columns cut off, or every n-th one: a pool of one pixel."""
    source, parts = call.arguments[0], call.arguments[1]
    shape = call.shape_of(source)
    parts = parts if isinstance(parts, (list, tuple)) else (parts,)
    refusal = UnknownOperationError(
        "takes other parts than rows and columns",
        "use Cropping1D or Cropping2D; for channels two convolutions, for one row a "
        "crop and Flatten",
    )
    if len(shape) not in (3, 4) or not all(isinstance(one, Mapping) for one in parts):
        raise refusal
    crops: list[tuple[int, int]] = []
    steps: list[int] = []
    for size, part in zip(shape, parts, strict=False):
        ends = [part[name] for name in ("start", "stop", "step")]
        if size is None:
            if any(one is not None for one in ends):
                raise refusal
            crops.append((0, 0))
            steps.append(1)
            continue
        start, stop, step = slice(*ends).indices(size)
        if step < 1 or stop <= start:
            raise refusal
        crops.append((start, size - stop))
        steps.append(step)
    inner = crops[1 : len(shape) - 1]
    inner += [(0, 0)] * (len(shape) - 2 - len(inner))
    is_whole = crops[0] == (0, 0) and crops[len(shape) - 1 :] in ([], [(0, 0)])
    if not is_whole or set(steps) != {1}:
        raise refusal
    return Layer(
        kind=f"Cropping{len(inner)}D",
        inputs=[source],
        attributes={"cropping": tuple(inner) if len(inner) > 1 else inner[0]},
    )
