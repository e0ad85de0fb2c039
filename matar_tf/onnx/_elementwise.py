"""How operators are written that have no kernels: sums, functions, reductions.

Where the file for LiteRT computes with fixed-point factors, or rounds halves upwards,
levels are multiplied by the same factors and moved by less than the next fraction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from matar_tf.onnx._graph import Value
from matar_tf.onnx._place import Place, writes
from matar_tf.tflite._arithmetic import sum_factors
from matar_tf.tflite._elementwise import leaky_factors
from matar_tf.tflite._site import SIMULATED, Site

__all__: list[str] = []  # they register themselves

_TELLS_APART: Final = 1 << 12  # fractions of a level that float32 tells apart
_SAFE: Final = 1e-3  # of a level: beyond what float32 leaves of a function
_SQRT_HALF: Final = math.sqrt(0.5)
_AXES_AS_INPUT: Final = 18  # since this version of ONNX


@writes("ADD")
def _add(place: Place) -> Value:
    return _sum(place, "Add")


@writes("SUB")
def _subtract(place: Place) -> Value:
    return _sum(place, "Sub")


def _sum(place: Place, operator: str) -> Value:
    a, b = _operands(place)
    if not place.form.carries_levels:
        return place.add(operator, [a, b], a)
    unit = np.float64(place.grid.scale)
    scales = [place.input_grid(position).scale for position in (0, 1)]
    taken = sum_factors(scales, place.grid.scale)
    if taken is None:
        return place.add(operator, [place.in_unit(a, unit), place.in_unit(b, unit)], a)
    factors, shift = taken
    terms = [
        place.in_unit(one, one.unit * 2.0**shift / factor)
        for one, factor in zip((a, b), factors, strict=True)
    ]
    made = place.add(operator, terms, a, unit=unit)
    parts = (1 << shift) // math.gcd(1 << shift, *factors)
    return place.raised_by(made, 1 / (2 * parts)) if 1 < parts <= _TELLS_APART else made


def _operands(place: Place) -> tuple[Value, Value]:
    """Returns two inputs, with their channels at the same place."""
    a, b = place.read(0), place.read(1)
    if a.is_image and a.first != b.first:
        a, b = (place.read(position, first=True) for position in (0, 1))
    return a, b


@writes("MUL")
def _multiply(place: Place) -> Value:
    a, b = _operands(place)
    unit = a.unit
    if place.form.carries_levels:  # rounded as XNNPACK rounds it
        unit = np.float64(np.float32(a.unit) * np.float32(b.unit))
    return place.add("Mul", [a, b], a, unit=unit)


@writes("MAXIMUM")
def _maximum(place: Place) -> Value:
    a, b = _operands(place)
    return place.add("Max", [a, b], a)


@writes("MINIMUM")
def _minimum(place: Place) -> Value:
    a, b = _operands(place)
    return place.add("Min", [a, b], a)


@writes("MEAN")
def _mean(place: Place) -> Value:
    return _reduced(place, "ReduceMean", place.levels(place.read()))


@writes("REDUCE_MAX")
def _reduce_max(place: Place) -> Value:
    return _reduced(place, "ReduceMax", place.read())


def _reduced(place: Place, operator: str, value: Value) -> Value:
    keeps = bool(place.options.keepDims)
    axes = sorted(axis % len(value.shape) for axis in place.setting(1))
    if value.is_image and axes == [1, 2]:
        value = place.graph.moved(value, first=True)
        whole = (value.shape[0], 1, 1, value.shape[3])
        kind = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
        made = place.add(kind[operator], [value], value, shape=whole)
        return made if keeps else place.reshaped(made)
    value = place.graph.moved(value, first=False)
    given: dict[str, Any] = {"keepdims": int(keeps)}
    inputs: list[Value | str] = [value]
    if place.form.opsets[""] < _AXES_AS_INPUT:
        given["axes"] = axes
    else:
        stored = np.array(axes, np.int64)
        inputs.append(place.graph.constant(f"{place.label}/axes", stored))
    return place.add(operator, inputs, value, **given)


@writes("QUANTIZE")
def _quantize(place: Place) -> Value:
    return place.read()


@writes("DEQUANTIZE")
def _dequantize(place: Place) -> Value:
    return place.real(place.read())


@writes("RELU")
def _relu(place: Place) -> Value:
    value = place.read()
    return place.add("Relu", [value], value)


@writes("RELU6")
def _relu6(place: Place) -> Value:
    value = place.read()
    grid = place.grid
    highest = min(float(np.rint(np.float32(6.0) / grid.scale)), float(grid.high))
    ends = (0.0, highest * float(grid.scale) / float(value.unit))
    inputs = [place.graph.number(f"{place.label}/end", end) for end in ends]
    return place.add("Clip", [value, *inputs], value)


@writes("LEAKY_RELU")
def _leaky_relu(place: Place) -> Value:
    """Factors of levels have 8 bits after the point; halves go up."""
    value, alpha = place.read(), float(place.options.alpha)
    source, made = place.input_grid().scale, place.grid.scale
    factors = leaky_factors(source, made, np.float32(alpha))
    if factors is None:  # the builtin kernel rounds twice
        result = place.add("LeakyRelu", [value], value, alpha=alpha)
        return _safe(place, result, lambda x: np.where(x < 0, alpha * x, x))
    above, below = factors
    result = place.add("LeakyRelu", [value], value, alpha=below / above)
    # What these factors make of a step of the input, in steps of the output.
    result = place.scaled(result, above / 256 * float(made) / float(source))
    return place.raised_by(result, 1 / 1024)


@writes("LOGISTIC")
def _sigmoid(place: Place) -> Value:
    return _function(place, "Sigmoid")


@writes("TANH")
def _tanh(place: Place) -> Value:
    return _function(place, "Tanh")


@writes("ELU")
def _elu(place: Place) -> Value:
    return _function(place, "Elu")


@writes("EXP")
def _exp(place: Place) -> Value:
    return _function(place, "Exp")


def _function(place: Place, operator: str) -> Value:
    value = place.real(place.read())
    return _safe(place, place.add(operator, [value], value), _EXACT[operator])


@writes("GELU")
def _gelu(place: Place) -> Value:
    """``x * (1 + erf(x / sqrt(2))) / 2``, or as TensorFlow approximates it."""
    value = place.real(place.read())
    exact = _rough_gelu if place.options.approximate else _exact_gelu
    if place.options.approximate:
        cube = place.add("Mul", [value, place.add("Mul", [value, value], value)], value)
        inner = place.add(
            "Add", [value, place.with_number("Mul", cube, 0.044715)], cube
        )
        inner = place.with_number("Mul", inner, math.sqrt(2 / math.pi))
        part = place.add("Tanh", [inner], inner)
    else:
        inner = place.with_number("Mul", value, _SQRT_HALF)
        part = place.add("Erf", [inner], inner)
    half = place.with_number("Mul", value, 0.5)
    made = place.add("Mul", [half, place.with_number("Add", part, 1.0)], half)
    return _safe(place, made, exact)


def _safe(
    place: Place, made: Value, exact: Callable[[np.ndarray], np.ndarray]
) -> Value:
    """Returns what a function makes, moved from where its last bits would decide.

    All that its input may be is tried: the levels that LiteRT makes must be those that
    lie next.

    Args:
      place: The operator.
      made: What the function makes.
      exact: The function, float64 to float64.
    """
    source, grid = place.input_grid(), place.grid
    if grid.is_wide:
        return made
    levels = np.arange(source.low, source.high + 1)
    stored = (levels + source.zero_point).astype(np.int8)
    model, operator = place.network.model, place.operator
    site = Site(model, operator, {int(operator.inputs[0]): stored}, "xnnpack")
    expected = SIMULATED[place.name](site).astype(np.float64) - grid.zero_point
    with np.errstate(over="ignore"):
        found = exact(levels * np.float64(source.scale)) / np.float64(grid.scale)
    inside = (found > grid.low) & (found < grid.high)
    if not inside.any():
        return made
    lowest = (expected - 0.5 - found)[inside].max()
    highest = (expected + 0.5 - found)[inside].min()
    if (lowest < -_SAFE and highest > _SAFE) or lowest >= highest:
        return made
    return place.raised_by(made, (lowest + highest) / 2)


def _exact_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.array([math.erf(one) for one in x * _SQRT_HALF]))


def _rough_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


_EXACT: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "Elu": lambda x: np.where(x < 0, np.expm1(x), x),
    "Exp": np.exp,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
}


@writes("SOFTMAX")
def _softmax(place: Place) -> Value:
    value = place.real(place.read(first=False))
    if place.options.beta != 1:
        value = place.with_number("Mul", value, place.options.beta)
    return place.add("Softmax", [value], value, axis=-1)
