"""Functions and arithmetic of the simulator against each runtime's, every value.

A function of one int8 number has 256 inputs, one of two has 65,536.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from fixtures.graphs import add_operator, add_tensor, options_of

from matar_tf.tflite._micro import micro_fault
from matar_tf.tflite._schema import schema, write_model
from matar_tf.tflite._site import Site
from matar_tf.tflite.simulator import SIMULATED

INT8 = np.arange(-128, 128, dtype=np.int8)
FIXED = {
    "LOGISTIC": (1 / 256, -128),
    "SOFTMAX": (1 / 256, -128),
    "TANH": (1 / 128, 0),
}
# What XNNPACK does not take; it runs on the builtin kernels beside it.
LEFT_ALONE = {"EXP", "GELU", "MAXIMUM", "MINIMUM", "SOFTMAX"}
# Zero points of int8, and of signed and unsigned tensors of n bits (at its top).
ZERO_POINTS = (-128, 0, 127 - 7, 127 - 15, 127 - 1, 127 - 3, -37)


def model_of(
    name: str, shapes: list[tuple[int, ...]], grids: list[tuple[float, int]], kind: Any
) -> Any:
    """Returns a graph of one operator; the last shape and grid are of what it makes."""
    model = schema.ModelT()
    model.version, model.operatorCodes = 3, []
    model.buffers, graph = [schema.BufferT()], schema.SubGraphT()
    model.subgraphs, graph.tensors, graph.operators = [graph], [], []
    for shape, (scale, zero_point) in zip(shapes, grids, strict=True):
        add_tensor(model, shape, scale=[scale], zero_point=zero_point)
    *graph.inputs, last = range(len(shapes))
    graph.outputs = [last]
    add_operator(model, name, graph.inputs, last, kind)
    return model


def run(model: Any, data: list[np.ndarray], kernels: str) -> tuple[np.ndarray, bool]:
    """Returns what LiteRT computes, and whether XNNPACK does."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = {
        "xnnpack": OpResolverType.AUTO,
        "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    }
    interpreter = Interpreter(
        model_content=write_model(model),
        experimental_op_resolver_type=resolver[kernels],
    )
    interpreter.allocate_tensors()
    for one, values in zip(interpreter.get_input_details(), data, strict=True):
        interpreter.set_tensor(one["index"], values)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    names = {one["op_name"] for one in interpreter._get_ops_details()}
    return found, "DELEGATE" in names


def check(model: Any, data: list[np.ndarray], *, on_xnnpack: bool) -> None:
    """Compares the simulator with both kinds of LiteRT, and with microcontrollers'."""
    operator = model.subgraphs[0].operators[0]
    name = next(
        name
        for name, code in vars(schema.BuiltinOperator).items()
        if code == model.operatorCodes[0].builtinCode
    )
    for kernels in ("xnnpack", "builtin"):
        found, is_delegated = run(model, data, kernels)
        assert is_delegated == (on_xnnpack and kernels == "xnnpack")
        site = Site(model, operator, dict(enumerate(data)), kernels)
        np.testing.assert_array_equal(SIMULATED[name](site), found, err_msg=kernels)
    if micro_fault(model) is None:
        found = run_on_microcontroller(model, data)
        site = Site(model, operator, dict(enumerate(data)), "tflm")
        np.testing.assert_array_equal(SIMULATED[name](site), found, err_msg="tflm")


def run_on_microcontroller(model: Any, data: list[np.ndarray]) -> np.ndarray:
    from tflite_micro.python.tflite_micro.runtime import Interpreter

    interpreter = Interpreter.from_bytes(write_model(model), arena_size=1 << 20)
    for place, values in enumerate(data):
        interpreter.set_input(values, place)
    interpreter.invoke()
    return interpreter.get_output(0)


class TestFunctions:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("LOGISTIC", None),
            ("TANH", None),
            ("ELU", None),
            ("EXP", None),
            ("GELU", options_of("GeluOptions", approximate=False)),
            ("GELU", options_of("GeluOptions", approximate=True)),
        ],
    )
    def test_every_input(self, name: str, kind: Any) -> None:
        rng = np.random.default_rng(0)
        for step, zero_point in itertools.product(
            (2**-8, 2**-5, 0.0371, 0.21), ZERO_POINTS
        ):
            # Equal steps and powers of two give halves, where roundings differ.
            own = rng.choice([step, 2 * step, 0.013, 0.11]), rng.choice(ZERO_POINTS)
            grids = [(step, zero_point), FIXED.get(name, own)]
            model = model_of(name, [(1, 256)] * 2, grids, kind)
            check(model, [INT8[None]], on_xnnpack=name not in LEFT_ALONE)

    @pytest.mark.parametrize("beta", [1.0, 0.37])
    def test_shares_of_a_sum(self, beta: float) -> None:
        rng = np.random.default_rng(0)
        kind = options_of("SoftmaxOptions", beta=beta)
        for step, classes in itertools.product(
            (2**-8, 2**-5, 0.0371, 0.21), (2, 7, 10, 1000)
        ):
            data = rng.choice(INT8, (2000 // classes, 3, classes))
            grids = [(step, int(rng.choice(ZERO_POINTS))), FIXED["SOFTMAX"]]
            model = model_of("SOFTMAX", [data.shape] * 2, grids, kind)
            check(model, [data], on_xnnpack=False)

    def test_values_far_beyond_the_grid_saturate(self) -> None:
        for name in ("EXP", "ELU", "LOGISTIC", "TANH"):
            grids = [(8.0, -1), FIXED.get(name, (0.001, 5))]
            model = model_of(name, [(1, 256)] * 2, grids, None)
            check(model, [INT8[None]], on_xnnpack=name not in LEFT_ALONE)


ARITHMETIC = {"ADD": "AddOptions", "MUL": "MulOptions", "SUB": "SubOptions"}
ACTIVATIONS = schema.ActivationFunctionType
PAIRS = [one.reshape(1, -1) for one in np.meshgrid(INT8, INT8)]


def of_pairs(name: str, grids: list[tuple[float, int]], activation: int = 0) -> Any:
    option = ARITHMETIC.get(name)
    kind = option and options_of(option, fusedActivationFunction=activation)
    return model_of(name, [(1, 65536)] * 3, grids, kind)


class TestArithmetic:
    @pytest.mark.parametrize("name", ARITHMETIC)
    @pytest.mark.parametrize(
        "activation", [ACTIVATIONS.NONE, ACTIVATIONS.RELU, ACTIVATIONS.RELU6]
    )
    def test_every_pair(self, name: str, activation: int) -> None:
        rng = np.random.default_rng(activation)
        for steps in (
            (0.021, 0.0173, 0.034),
            (2**-8, 2**-2, 2**-3),  # many halves
            (2**-6, 2**-6, 2**-6),
            (0.9, 1 / 256, 0.011),
        ):
            grids = list(zip(steps, rng.choice(ZERO_POINTS, 3).tolist(), strict=True))
            check(of_pairs(name, grids, activation), PAIRS, on_xnnpack=True)

    @pytest.mark.parametrize(
        ("name", "ratio", "on_xnnpack"),
        [
            ("ADD", 2**-10, True),
            ("ADD", 2**-11, False),
            ("SUB", 2**-10, True),
            ("SUB", 2**-11, False),
            ("SUB", 255.5, True),
            ("SUB", 256, False),
            ("MUL", 2**-16, True),
            ("MUL", 2**-17, False),
        ],
    )
    def test_what_xnnpack_leaves_to_others(
        self, name: str, ratio: float, on_xnnpack: bool
    ) -> None:
        grids = [(ratio, 3), (1.0, -60), (1.0, 5)]
        check(of_pairs(name, grids), PAIRS, on_xnnpack=on_xnnpack)

    @pytest.mark.parametrize("name", ARITHMETIC)
    @pytest.mark.parametrize(
        "activation", [ACTIVATIONS.NONE, ACTIVATIONS.RELU, ACTIVATIONS.RELU6]
    )
    def test_one_tensor_with_itself(self, name: str, activation: int) -> None:
        """XNNPACK takes a square for a function, which rounds in another way."""
        for step, zero_point in itertools.product((2**-8, 0.0371), ZERO_POINTS):
            grids = [(step, zero_point), (step * step * 8, 3 - zero_point // 2)]
            kind = options_of(ARITHMETIC[name], fusedActivationFunction=activation)
            model = model_of(name, [(1, 256)] * 2, grids, kind)
            model.subgraphs[0].operators[0].inputs = [0, 0]
            check(model, [INT8[None]], on_xnnpack=True)

    @pytest.mark.parametrize("name", ["MAXIMUM", "MINIMUM"])
    def test_the_larger_and_the_smaller(self, name: str) -> None:
        check(of_pairs(name, [(0.3, 112)] * 3), PAIRS, on_xnnpack=False)

    @pytest.mark.parametrize("name", ["ADD", "MUL", "SUB", "MAXIMUM", "MINIMUM"])
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ((2, 1, 1, 5), (2, 3, 4, 5)),
            ((2, 3, 4, 5), (2, 3, 4, 1)),
            ((2, 3, 1, 5), (2, 1, 4, 5)),
            ((2, 1, 1, 3, 5), (2, 4, 2, 3, 1)),
            ((2, 1), (2, 7)),
        ],
    )
    def test_broadcasts(
        self, name: str, one: tuple[int, ...], other: tuple[int, ...]
    ) -> None:
        rng = np.random.default_rng(0)
        data = [rng.choice(INT8, shape) for shape in (one, other)]
        grids = [(0.1, -7)] * 3
        shapes = [one, other, tuple(map(max, one, other))]
        option = ARITHMETIC.get(name)
        model = model_of(name, shapes, grids, option and options_of(option))
        check(model, data, on_xnnpack=name not in LEFT_ALONE)
