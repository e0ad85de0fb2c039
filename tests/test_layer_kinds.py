"""The table of layer kinds: every row has what it needs, and is the only place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import matar_tf
from matar_tf.layer_kinds import (
    ACTIVATIONS,
    LAYER_KINDS,
    KernelLayout,
    LayerKind,
    Rounding,
    rounding_of,
)
from matar_tf.operators import OPERATORS, CostShape, Grid
from matar_tf.tflite import simulator
from matar_tf.workload import OpKind

ROOT = Path(matar_tf.__file__).parent
ACTIVATION_OPERATORS = {row.operator for row in ACTIVATIONS.values() if row.operator}
KIND_OPERATORS = {name for row in LAYER_KINDS.values() for name in row.operators}


class TestOperators:
    @pytest.mark.parametrize("name", sorted(ACTIVATION_OPERATORS | KIND_OPERATORS))
    def test_what_a_layer_becomes_has_a_price_and_is_simulated(self, name: str) -> None:
        assert isinstance(OPERATORS[name].cost, OpKind)
        assert name in simulator.SIMULATED

    def test_all_of_integers_are_simulated_and_all_but_one_have_a_price(self) -> None:
        floats = {name for name, row in OPERATORS.items() if row.is_float}
        assert set(OPERATORS) - floats == set(simulator.SIMULATED)
        assert {OPERATORS[name].cost for name in floats} == {OpKind.FLOAT}
        free = {name for name, row in OPERATORS.items() if row.cost is None}
        assert free == {"DEQUANTIZE"}

    def test_every_price_is_asked_for(self) -> None:
        assert {row.cost for row in OPERATORS.values()} == {*OpKind, None}

    def test_those_with_kernels_are_those_that_multiply(self) -> None:
        kernels = {
            name
            for name, row in OPERATORS.items()
            if row.shape is CostShape.KERNEL and not row.is_float
        }
        forward = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
        assert kernels == {*forward, "TRANSPOSE_CONV"}
        multiply = (row for row in LAYER_KINDS.values() if row.kernel is not None)
        assert {name for row in multiply for name in row.operators} == kernels

    def test_a_kept_grid_is_one_of_the_operator_too(self) -> None:
        """What needs no quantizer of its own must not write on another grid."""
        for kind, row in LAYER_KINDS.items():
            for name in row.operators:
                if row.grid in (Grid.KEPT, Grid.INPUT):
                    assert OPERATORS[name].grid in (Grid.KEPT, Grid.INPUT), kind
        for name, function in ACTIVATIONS.items():
            if function.operator is not None:
                assert OPERATORS[function.operator].grid is function.grid, name


class TestKinds:
    def test_lifted_kinds_do_the_same(self) -> None:
        lifted = {
            kind: row
            for kind, row in LAYER_KINDS.items()
            if row.lifted not in (None, kind)  # one that is the same on images
        }
        integers = {kind for kind, row in LAYER_KINDS.items() if not row.is_float}
        assert {kind for kind in integers if "1D" in kind} == set(lifted)
        for kind, row in lifted.items():
            assert row.lifted == kind.replace("1D", "2D")
            flat = LAYER_KINDS[row.lifted]
            assert flat.lifted is None
            if kind == "UpSampling1D":  # it knows the nearest value alone
                assert set(row.operators) < set(flat.operators)
                continue
            for field in ("operators", "grid", "kernel", "rounding", "folds_norm"):
                assert getattr(flat, field) == getattr(row, field), kind

    def test_activations_that_kinds_name_are_rows(self) -> None:
        for kind, row in LAYER_KINDS.items():
            assert row.activation in (None, "", *ACTIVATIONS), kind

    def test_what_writes_on_its_inputs_grid_says_how_it_rounds(self) -> None:
        for row in (*LAYER_KINDS.values(), *ACTIVATIONS.values()):
            assert row.grid is not Grid.INPUT or row.rounding is not None

    def test_roundings(self) -> None:
        assert rounding_of("AveragePooling2D", "linear") is Rounding.POOL
        assert rounding_of("GlobalAveragePooling1D", "linear") is Rounding.MEAN
        assert rounding_of("ReLU", "relu") is Rounding.RELU
        assert rounding_of("LeakyReLU", "leaky_relu") is Rounding.LEAKY_RELU
        assert rounding_of("Conv2D", "linear") is None
        assert rounding_of("Mine", "mine") is None

    def test_channels_of_kernels(self) -> None:
        found = {
            kind: (row.kernel.layout, row.kernel.num_channel_axes)
            for kind, row in LAYER_KINDS.items()
            if row.kernel is not None and row.lifted in (None, kind)
        }
        assert found == {
            "ChannelScale": (KernelLayout.DEPTHWISE, 2),
            "Conv2D": (KernelLayout.CONV, 1),
            "Conv2DTranspose": (KernelLayout.TRANSPOSED, 1),
            "Dense": (KernelLayout.DENSE, 1),
            "DepthwiseConv2D": (KernelLayout.DEPTHWISE, 2),
        }

    def test_rows_cannot_be_changed(self) -> None:
        with pytest.raises(TypeError):
            LAYER_KINDS["Mine"] = LayerKind()  # type: ignore[index]
        with pytest.raises(AttributeError):
            LAYER_KINDS["Dense"].grid = Grid.KEPT  # type: ignore[misc]


# Names that a module may say beside the table: what it makes, or treats by itself.
OWN_NAMES = {
    "keras/packaging/convert.py": set(),
    # Where 0.1.0 wrote that they lie.
    "keras/packaging/network.py": {
        *("Identity", "InputQuantize", "MultiBitBatchNormalization"),
    },
    "keras/packaging/package.py": set(),
    "keras/quantizers/configs.py": set(),
    "keras/quantizers/rounding.py": {"MultiBitBatchNormalization", "relu6"},
    "keras/rewrite/build.py": set(),
    "keras/rewrite/check.py": set(),
    "keras/rewrite/graph.py": set(),
    "keras/rewrite/kinds.py": {
        *("ChannelScale", "Dequantize", "Identity", "InputLayer", "InputQuantize"),
        *("MultiBitBatchNormalization", "Quantize", "SharedLayer"),
    },
    "keras/rewrite/layout.py": set(),
    "keras/rewrite/lifting.py": {"Reshape"},
    "keras/rewrite/placement.py": set(),
    "keras/rewrite/plan.py": set(),
    "keras/rewrite/prepare.py": {"InputLayer"},
    "keras/rewrite/read.py": {"InputLayer"},
    "keras/rewrite/replacements.py": {
        *("Activation", "BatchNormalization", "Conv2D", "DepthwiseConv2D"),
    },
    "tflite/_arithmetic.py": set(),
    "tflite/_elementwise.py": set(),
    "tflite/_moving.py": set(),
    "tflite/_moving_rules.py": {"DEPTH_TO_SPACE"},
    "tflite/_multiplying.py": set(),
    "tflite/_schema.py": set(),
    "tflite/_site.py": set(),
    "tflite/_tables.py": set(),
    "tflite/simulator.py": {"CONV_2D", "DEPTHWISE_CONV_2D"},
    "tflite/template.py": {"DEQUANTIZE", "MAXIMUM", "QUANTIZE"},
    "tflite/workload.py": {"DEQUANTIZE", "GATHER", "QUANTIZE"},
}
FUNCTIONS = {*ACTIVATIONS} - {"linear"}


@pytest.mark.parametrize("module", OWN_NAMES)
def test_modules_read_the_table(module: str) -> None:
    """No kind, operator or function by its name, but where a function registers."""
    tree = ast.parse((ROOT / module).read_text())
    names = {*LAYER_KINDS, *OPERATORS, *FUNCTIONS}
    found = {name for name in names_in(tree) if name in names}
    assert found == OWN_NAMES[module]


def names_in(tree: ast.AST) -> Iterator[str]:
    """Yields strings and classes of layers, but not those of decorators."""
    registering = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for decorator in function.decorator_list
        for node in ast.walk(decorator)
    }
    for node in ast.walk(tree):
        if id(node) in registering:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Attribute) and node.attr in LAYER_KINDS:
            yield node.attr  # of keras.layers; TFLite's schema has others of a name


def test_the_names_of_a_module_by_hand() -> None:
    code = '@lays("Add")\ndef f(x):\n    return isinstance(x, L.Dense) or x == "ADD"\n'
    assert set(names_in(ast.parse(code))) == {"Dense", "ADD"}
