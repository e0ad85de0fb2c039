"""Operations on tensors, as a network's ``x + 3`` or ``tf.nn.relu6(x)``, as layers.

Keras keeps such an operation as a layer that holds a function of TensorFlow. Here each
is read as the layer that does the same.

Source: the signatures of TensorFlow's public functions, by their symbols
(``math.multiply``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np

from matar_tf.keras.rewrite.graph import TensorRef, refs_in
from matar_tf.keras.rewrite.operation_calls import (
    Call,
    Layer,
    UnknownOperationError,
    only_tensors,
)
from matar_tf.keras.rewrite.shape_operations import SHAPE_READERS

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
    reader = {**_READERS, **SHAPE_READERS}.get(call.symbol)
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
