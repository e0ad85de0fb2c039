"""Operations of Keras 3 on tensors, such as ``x + 3``, as layers of tf_keras.

What no layer does is a function of TensorFlow; which, this module says, not the config.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np

from matar_tf.errors import ModelError, shown
from matar_tf.keras._compat import tf
from matar_tf.keras.keras3.arguments import COMPOSITES, NAMED
from matar_tf.keras.keras3.description import Call, Layer, Ref

__all__ = ["FUNCTIONS", "translate_operation"]

_Operation: TypeAlias = "Callable[[Layer, Call], Layer]"


def _take(value: Any, key: Any) -> Any:
    return operator.getitem(value, tuple(key) if isinstance(key, list) else key)


FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {
        "tf.abs": tf.abs,
        "tf.add": tf.add,
        "tf.any": tf.reduce_any,
        "tf.cast": tf.cast,
        "tf.clip": tf.clip_by_value,
        "tf.concat": tf.concat,
        "tf.divide": tf.divide,
        "tf.exp": tf.exp,
        "tf.expand_dims": tf.expand_dims,
        "tf.gelu": tf.nn.gelu,
        "tf.getitem": _take,
        "tf.log": tf.math.log,
        "tf.matmul": tf.matmul,
        "tf.max": tf.reduce_max,
        "tf.mean": tf.reduce_mean,
        "tf.maximum": tf.maximum,
        "tf.min": tf.reduce_min,
        "tf.minimum": tf.minimum,
        "tf.multiply": tf.multiply,
        "tf.not_equal": tf.not_equal,
        "tf.pow": tf.pow,
        "tf.reshape": tf.reshape,
        "tf.rsqrt": tf.math.rsqrt,
        "tf.sqrt": tf.sqrt,
        "tf.square": tf.square,
        "tf.squeeze": tf.squeeze,
        "tf.stack": tf.stack,
        "tf.subtract": tf.subtract,
        "tf.sum": tf.reduce_sum,
        "tf.transpose": tf.transpose,
    }
)
_NAMED: Final = MappingProxyType(
    {
        "Exp": "exponential",
        "HardSigmoid": "hard_sigmoid",
        "HardSilu": "hard_silu",
        "Relu": "relu",
        "Relu6": "relu6",
        "Selu": "selu",
        "Sigmoid": "sigmoid",
        "Silu": "silu",
        "Softplus": "softplus",
        "Softsign": "softsign",
        "Tanh": "tanh",
    }
)
_PLAIN: Final = MappingProxyType(
    {
        "Abs": "abs",
        "Absolute": "abs",
        "Log": "log",
        "Matmul": "matmul",
        "NotEqual": "not_equal",
        "Power": "pow",
        "Rsqrt": "rsqrt",
        "Sqrt": "sqrt",
        "Square": "square",
    }
)
_REDUCTIONS: Final = {"Any": "any", "Max": "max", "Mean": "mean", "Min": "min"}
_REDUCTIONS["Sum"] = "sum"
_POOLS: Final = {
    ("Mean", 3): "GlobalAveragePooling1D",
    ("Mean", 4): "GlobalAveragePooling2D",
    ("Max", 3): "GlobalMaxPooling1D",
    ("Max", 4): "GlobalMaxPooling2D",
}
_FUNCTION_OF: Final = MappingProxyType(
    {
        "Add": "tf.add",
        "Divide": "tf.divide",
        "Maximum": "tf.maximum",
        "Minimum": "tf.minimum",
        "Multiply": "tf.multiply",
        "Subtract": "tf.subtract",
        "TrueDivide": "tf.divide",
    }
)
_OPERATIONS: dict[str, _Operation] = {}


def translate_operation(layer: Layer, kind: str) -> Layer:
    """Returns the layer of tf_keras that does what an operation of Keras 3 does.

    Args:
      layer: Its name, arguments and one call.
      kind: Its class in Keras 3.

    Raises:
      ModelError: If there is none; why, without the layer.
    """
    translate = _OPERATIONS.get(kind)
    if translate is None:
        raise ModelError("is an operation that has no counterpart here; use a layer")
    if len(layer.calls) != 1:
        raise ModelError("is an operation that is called several times; make several")
    call = layer.calls[0]
    values = [*call.arguments, *call.keywords.values()]
    options = {key: one for key, one in layer.arguments.items() if key != "name"}
    arguments = Call(arguments=tuple(values))
    return translate(replace(layer, kind=kind, arguments=options), arguments)


def _is_for(*kinds: str) -> Callable[[_Operation], _Operation]:
    """Registers a function for classes of Keras 3."""

    def register(translate: _Operation) -> _Operation:
        _OPERATIONS.update(dict.fromkeys(kinds, translate))
        return translate

    return register


def _made(layer: Layer, kind: str, *arguments: Any, **options: Any) -> Layer:
    """Returns a layer of tf_keras, or a function, that is called once."""
    return replace(
        layer, kind=kind, arguments=options, calls=(Call(arguments=arguments),)
    )


def _no_other(layer: Layer, **expected: Any) -> None:
    """Refuses arguments beside those that are named, and other values of these."""
    for key, value in layer.arguments.items():
        if value not in (None, expected.get(key)):
            raise ModelError(f"has {key}={shown(value)}; use a layer")


@_is_for("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Divide", "TrueDivide")
def _two(layer: Layer, call: Call) -> Layer:
    first, second = _operands(call)
    if isinstance(first, Ref) and isinstance(second, Ref):
        if layer.kind in ("Divide", "TrueDivide") or first.rank != second.rank:
            return _made(layer, _FUNCTION_OF[layer.kind], first, second)
        return _made(layer, layer.kind, [first, second])
    tensor, other = (first, second) if isinstance(first, Ref) else (second, first)
    constant = _constant(other)
    affine = _affine(layer.kind, constant, isinstance(first, Ref))
    if affine is None:
        array = constant.astype(np.float32)
        both = (tensor, array) if isinstance(first, Ref) else (array, tensor)
        return _made(layer, _FUNCTION_OF[layer.kind], *both)
    scale, offset = affine
    return _made(layer, "Rescaling", tensor, scale=scale, offset=offset)


def _operands(call: Call) -> tuple[Any, Any]:
    match call.arguments:
        case [first, second] if isinstance(first, Ref) or isinstance(second, Ref):
            return first, second
        case _:
            raise ModelError("does not take two tensors; use a layer")


def _constant(value: Any) -> np.ndarray:
    """Returns the numbers that an operation takes beside a tensor."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ModelError("takes something else than numbers; use a layer")
    return array.astype(float)


def _affine(kind: str, array: np.ndarray, is_first: bool) -> tuple[Any, Any] | None:
    """Returns the factor and the addend of an operation with a constant.

    As a config of tf_keras has them: a number, or a list of one a channel; None for
    what no factor and addend do.

    Args:
      kind: The operation.
      array: The constant.
      is_first: Whether the tensor comes first.
    """
    if array.ndim > 1:
        return None
    constant = array.tolist()
    match kind, is_first:
        case "Add", _:
            return 1.0, constant
        case "Subtract", True:
            return 1.0, (-array).tolist()
        case "Subtract", False:
            return -1.0, constant
        case "Multiply", _:
            return constant, 0.0
        case (("Divide" | "TrueDivide"), True) if np.all(array != 0):
            return (1.0 / array).tolist(), 0.0
        case _:
            return None


@_is_for("Negative")
def _negative(layer: Layer, call: Call) -> Layer:
    return _made(layer, "Rescaling", *call.arguments, scale=-1.0, offset=0.0)


@_is_for(*_NAMED)
def _activation(layer: Layer, call: Call) -> Layer:
    name = _NAMED[layer.kind]
    if name in COMPOSITES:
        return replace(_made(layer, "", *call.arguments), activation=COMPOSITES[name])
    return _made(layer, "Activation", *call.arguments, activation=NAMED[name])


@_is_for("Gelu")
def _gelu(layer: Layer, call: Call) -> Layer:
    if layer.arguments.get("approximate"):
        return _made(layer, "tf.gelu", *call.arguments, approximate=True)
    return _made(layer, "Activation", *call.arguments, activation="gelu")


@_is_for("Softmax")
def _softmax(layer: Layer, call: Call) -> Layer:
    return _made(layer, "Softmax", *call.arguments, axis=layer.arguments["axis"])


@_is_for("LeakyRelu")
def _leaky(layer: Layer, call: Call) -> Layer:
    slope = layer.arguments["negative_slope"]
    return _made(layer, "LeakyReLU", *call.arguments, alpha=slope)


@_is_for("Elu")
def _elu(layer: Layer, call: Call) -> Layer:
    return _made(layer, "ELU", *call.arguments, alpha=layer.arguments["alpha"])


@_is_for("Clip")
def _clip(layer: Layer, call: Call) -> Layer:
    low, high = layer.arguments["x_min"], layer.arguments["x_max"]
    if not all(isinstance(one, (int, float)) for one in (low, high)):
        raise ModelError("clips at something else than numbers; use a layer")
    if low != 0:
        return _made(layer, "tf.clip", *call.arguments, low, high)
    return _made(layer, "ReLU", *call.arguments, max_value=high)


@_is_for(*_PLAIN)
def _plain(layer: Layer, call: Call) -> Layer:
    return _made(layer, f"tf.{_PLAIN[layer.kind]}", *call.arguments)


@_is_for(*_REDUCTIONS)
def _reduce(layer: Layer, call: Call) -> Layer:
    axes, keeps = layer.arguments["axis"], layer.arguments["keepdims"]
    if layer.arguments.get("initial") is not None:
        raise ModelError("has an initial value; leave it out")
    (tensor,) = call.arguments
    if isinstance(tensor, Ref) and isinstance(axes, list) and tensor.rank:
        places = sorted(one % tensor.rank for one in axes)
        pool = _POOLS.get((layer.kind, tensor.rank))
        if pool is not None and places == list(range(1, tensor.rank - 1)):
            return _made(layer, pool, tensor, keepdims=keeps)
    name = f"tf.{_REDUCTIONS[layer.kind]}"
    return _made(layer, name, tensor, axis=axes, keepdims=keeps)


@_is_for("Concatenate")
def _concatenate(layer: Layer, call: Call) -> Layer:
    (tensors,) = call.arguments
    axis = layer.arguments["axis"]
    if all(isinstance(one, Ref) for one in tensors):
        return _made(layer, "Concatenate", tensors, axis=axis)
    return _made(layer, "tf.concat", tensors, axis=axis)


@_is_for("Reshape")
def _reshape(layer: Layer, call: Call) -> Layer:
    sizes = layer.arguments["newshape"]
    is_of_batch = bool(sizes) and sizes[0] in (-1, None)
    is_known = all(_is_size(one) for one in sizes[1:])
    if is_of_batch and is_known and _keeps_samples(call, sizes[1:]):
        return _made(layer, "Reshape", *call.arguments, target_shape=sizes[1:])
    if sizes and all(_is_size(one) or one == -1 for one in sizes):
        return _made(layer, "tf.reshape", *call.arguments, shape=sizes)
    raise ModelError(f"has the shape {shown(sizes)}; use a layer")


def _keeps_samples(call: Call, sizes: list[int]) -> bool:
    """Whether each sample becomes one of these sizes, unless it is not known."""
    (tensor,) = call.arguments
    given = tensor.sizes[1:] if isinstance(tensor, Ref) and tensor.sizes else (None,)
    known = [one for one in given if one is not None]
    return len(known) < len(given) or math.prod(known) == math.prod(sizes)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and 0 < value < math.inf


@_is_for("Transpose")
def _transpose(layer: Layer, call: Call) -> Layer:
    axes = layer.arguments["axes"]
    if isinstance(axes, list) and axes[:1] == [0]:
        return _made(layer, "Permute", *call.arguments, dims=axes[1:])
    return _made(layer, "tf.transpose", *call.arguments, perm=axes)


@_is_for("ExpandDims", "Squeeze", "Stack")
def _axes(layer: Layer, call: Call) -> Layer:
    name = {"ExpandDims": "expand_dims", "Squeeze": "squeeze", "Stack": "stack"}
    axis = layer.arguments["axis"]
    return _made(layer, f"tf.{name[layer.kind]}", *call.arguments, axis=axis)


@_is_for("Cast")
def _cast(layer: Layer, call: Call) -> Layer:
    _no_other(layer, dtype="float32")
    return _made(layer, "tf.cast", *call.arguments, dtype="float32")


@_is_for("GetItem")
def _getitem(layer: Layer, call: Call) -> Layer:
    return _made(layer, "tf.getitem", *call.arguments)
