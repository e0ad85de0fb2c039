"""Reading what the converter made: which operators are put in place of which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fixtures.graphs import TYPES, add_operator, add_tensor, graph_of

from matar_tf.errors import ModelError
from matar_tf.tflite._schema import op_name, parse_model, write_model
from matar_tf.tflite.template import Fingerprints, Template, read_template

SHAPE = (1, 6)
STEPS = {"input": 0.02, "out": 0.03}


def operators_of(template: Template) -> list[tuple[str, list[int], int]]:
    model = parse_model(template.content)
    return [
        (op_name(model, one), [int(i) for i in one.inputs], int(one.outputs[0]))
        for one in model.subgraphs[0].operators
    ]


def read(model: Any, *signed: str) -> Template:
    steps = Fingerprints(weights={}, activations=STEPS, signed=signed)
    return read_template(write_model(model), steps)


def start() -> Any:
    """A float input (tensor 0) on the grid "input" (1), and a tensor (2) on "out"."""
    model = graph_of("QUANTIZE", SHAPE, SHAPE)
    graph = model.subgraphs[0]
    for index, entry in ((1, "input"), (2, "out")):
        graph.tensors[index].quantization.scale = np.array([STEPS[entry]], np.float32)
    del graph.operators[1:]
    return model


def add_float(model: Any) -> int:
    return add_tensor(model, SHAPE, TYPES.FLOAT32, scale=())


def end(model: Any, source: int) -> Any:
    output = add_float(model)
    add_operator(model, "DEQUANTIZE", [source], output)
    model.subgraphs[0].outputs = [output]
    return model


def in_float(name: str) -> tuple[Any, int]:
    """A function between float tensors; returns the first of them as well."""
    model = start()
    before, after = add_float(model), add_float(model)
    add_operator(model, "DEQUANTIZE", [1], before)
    add_operator(model, name, [before], after)
    add_operator(model, "QUANTIZE", [after], 2)
    return model, before


class TestFunctionsInFloat:
    def test_one_goes_onto_the_grids_around_it(self) -> None:
        model, _ = in_float("ELU")
        template = read(end(model, 2), "input", "out")
        assert operators_of(template) == [
            ("QUANTIZE", [0], 1),
            ("ELU", [1], 2),
            ("DEQUANTIZE", [2], 3),
        ]
        assert template.tensors == {1: "input", 2: "out"}

    def test_what_another_reads_stays(self) -> None:
        model, before = in_float("ELU")
        graph = end(model, 2).subgraphs[0]
        graph.outputs = [*graph.outputs, before]
        template = read(model)
        assert [name for name, *_ in operators_of(template)] == [
            *("QUANTIZE", "DEQUANTIZE", "ELU", "DEQUANTIZE"),
        ]

    def test_two_after_another_stay_in_float(self) -> None:
        model, _ = in_float("ELU")
        first = model.subgraphs[0].operators[2]
        between = add_float(model)
        add_operator(model, "ELU", [between], int(first.outputs[0]))
        first.outputs = [between]
        operators = model.subgraphs[0].operators
        operators[3], operators[4] = operators[4], operators[3]
        with pytest.raises(ModelError, match=r"left ELU .* in float"):
            read(end(model, 2))

    def test_a_grid_between_stays(self) -> None:
        model = start()
        number, between = add_float(model), add_tensor(model, SHAPE, scale=[0.02])
        add_operator(model, "DEQUANTIZE", [1], number)
        add_operator(model, "QUANTIZE", [number], between)
        add_operator(model, "QUANTIZE", [between], 2)
        assert [name for name, *_ in operators_of(read(end(model, 2)))] == [
            *("QUANTIZE", "DEQUANTIZE", "QUANTIZE", "QUANTIZE", "DEQUANTIZE"),
        ]

    def test_one_on_a_grid_that_tflite_fixes_stays_in_float(self) -> None:
        model, _ = in_float("LOGISTIC")
        with pytest.raises(ModelError, match=r"left LOGISTIC .* in float"):
            read(end(model, 2))


class TestMaximum:
    def make(self, *, is_constant: bool) -> Any:
        model = start()
        graph = model.subgraphs[0]
        graph.tensors[1].quantization = graph.tensors[2].quantization
        other = 1
        if is_constant:
            lowest = np.array([-8], np.int8)
            other = add_tensor(model, [1], scale=[STEPS["out"]], values=lowest)
        add_operator(model, "MAXIMUM", [1, other], 2)
        return end(model, 2)

    def read(self, *, is_constant: bool) -> Template:
        steps = Fingerprints(
            weights={}, activations={"out": STEPS["out"]}, signed=("out",)
        )
        return read_template(write_model(self.make(is_constant=is_constant)), steps)

    def test_with_a_constant_it_is_a_clamp(self) -> None:
        template = self.read(is_constant=True)
        assert template.clamps == {"out": (1,)}
        assert template.before_clamps == (1,)
        assert operators_of(template)[1] == ("QUANTIZE", [1], 2)

    def test_of_two_tensors_it_stays(self) -> None:
        template = self.read(is_constant=False)
        assert not template.clamps
        assert operators_of(template)[1] == ("MAXIMUM", [1, 1], 2)
