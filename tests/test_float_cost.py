"""What stays in float: what it asks of hardware, and what that costs, by hand."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from fixtures.digits import digits_artifact
from fixtures.graphs import (
    TYPES,
    add_operator,
    add_tensor,
    float_graph,
    multiplication,
    options_of,
)

from matar_tf.errors import ModelError, TargetError
from matar_tf.policy import Policy
from matar_tf.pricing import check_policy, legal_space
from matar_tf.pricing.model import CostModel, estimate
from matar_tf.reporting import matrix_to_csv, matrix_to_json, matrix_to_markdown
from matar_tf.reporting.matrix import matrix_from_json, matrix_to_text
from matar_tf.run.costs import PolicyCosts, cost_matrix
from matar_tf.space import PolicySpace
from matar_tf.targets import list_targets, load_target
from matar_tf.template_map import KernelPiece, KernelPlace
from matar_tf.tflite._graph_rules import check_model
from matar_tf.tflite._schema import (
    parse_model,
    quantization,
    set_buffer,
    write_model,
)
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.template import Template
from matar_tf.tflite.workload import read_workload
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload, Workload

ROWS, WIDTH, UNITS = 6, 8, 4


def recurrent():
    """A dense layer in integers, one in float of two kernels and a bias, and a ReLU.

    Of rows of 8 the float layer makes ``tanh(x k + b)``, from which it makes ``h r`` of
    as many; the first kernel lies there as it is, [4, 8], the second in two parts.
    """
    row, made = (1, ROWS, WIDTH), (1, ROWS, UNITS)
    options = options_of("FullyConnectedOptions", keepNumDims=True)
    model = multiplication("FULLY_CONNECTED", row, (WIDTH, WIDTH), row, options)
    floats = {"kind": TYPES.FLOAT32, "scale": ()}

    def stored(*shape):
        return add_tensor(model, shape, **floats, values=np.ones(shape, np.float32))

    whole, first = add_tensor(model, row, **floats), stored(UNITS, WIDTH)
    products, bias = add_tensor(model, made, **floats), stored(UNITS)
    sums, hidden = (add_tensor(model, made, **floats) for _ in range(2))
    halves = [stored(UNITS // 2, UNITS) for _ in range(2)]
    parts = [add_tensor(model, (1, ROWS, UNITS // 2), **floats) for _ in range(2)]
    both = add_tensor(model, made, **floats)
    coarse, result = (add_tensor(model, made, scale=(0.75,)) for _ in range(2))
    output = add_tensor(model, made, **floats)
    dense = {"options": options_of("FullyConnectedOptions", keepNumDims=True)}
    add_operator(model, "DEQUANTIZE", [2], whole)
    add_operator(model, "FULLY_CONNECTED", [whole, first, -1], products, **dense)
    add_operator(model, "ADD", [products, bias], sums, options_of("AddOptions"))
    add_operator(model, "TANH", [sums], hidden)
    for kernel, part in zip(halves, parts, strict=True):
        add_operator(model, "FULLY_CONNECTED", [hidden, kernel, -1], part, **dense)
    joined = options_of("ConcatenationOptions", axis=2)
    add_operator(model, "CONCATENATION", parts, both, joined)
    add_operator(model, "QUANTIZE", [both], coarse)
    add_operator(model, "RELU", [coarse], result)
    add_operator(model, "DEQUANTIZE", [result], output)
    model.subgraphs[0].outputs = [output]
    piece = {"sizes": (UNITS // 2, UNITS), "strides": (1, UNITS)}
    return Template(
        content=check_model(write_model(model)),
        tensors={1: "image", 2: "dense", coarse: "rnn", result: "rnn"},
        kernels={"dense": KernelPlace(operator=1, input="image")},
        clamps={},
        before_clamps=(),
        islands={"rnn": (3, 4, 5, 6, 7, 8)},
        pieces={
            "rnn/kernel": (
                KernelPiece(tensor=first, offset=0, sizes=(32,), strides=(1,)),
            ),
            "rnn/recurrent": tuple(
                KernelPiece(tensor=at, offset=2 * half, **piece)
                for half, at in enumerate(halves)
            ),
        },
    )


@pytest.fixture(name="template", scope="module")
def _template():
    return recurrent()


@pytest.fixture(name="workload", scope="module")
def _workload(template):
    return read_workload(template)


POLICY = Policy(
    weights={"dense": 8, "rnn/kernel": 8, "rnn/recurrent": 4},
    activations={"image": 8, "dense": 8, "rnn": 8},
)


class TestWorkload:
    def test_a_layer_of_two_kernels(self, workload):
        dense, kernel, recurrent, rest, relu = workload.layers
        assert (dense.name, dense.kind) == ("dense", OpKind.DENSE)
        expected = {"kind": OpKind.FLOAT, "inputs": ("dense",), "weights": "rnn/kernel"}
        assert kernel == LayerWorkload(
            name="rnn/kernel",
            output="rnn/kernel",
            macs=6 * 32,
            weight_elems=32,
            float_ops=1,
            **expected,
        )
        assert (recurrent.name, recurrent.weights) == ("rnn/recurrent",) * 2
        assert (recurrent.macs, recurrent.weight_elems) == (6 * 16, 16)
        assert (recurrent.float_ops, recurrent.float_elems) == (2, 0)
        # A bias of 4; a sum, a function and a join of 24 each.
        assert rest == LayerWorkload(
            name="rnn",
            kind=OpKind.FLOAT,
            inputs=("dense", "rnn/kernel", "rnn/recurrent"),
            output="rnn",
            bias_elems=4,
            float_ops=3,
            float_elems=72,
        )
        assert (relu.kind, relu.inputs) == (OpKind.ACTIVATION, ("rnn",))
        assert workload.float_tensors == {"rnn/kernel", "rnn/recurrent"}
        assert workload.tensors["rnn"].activation == "rnn"
        assert workload.outputs == (relu.output,)

    def test_one_kernel_is_the_layers(self, template):
        pieces = {"rnn": template.pieces["rnn/kernel"]}
        (layer,) = (
            one
            for one in read_workload(
                dataclasses.replace(template, pieces=pieces)
            ).layers
            if one.kind is OpKind.FLOAT
        )
        assert (layer.name, layer.weights) == ("rnn", "rnn")
        # What is multiplied by no kernel of a policy counts with the rest.
        assert (layer.macs, layer.weight_elems) == (6 * 32 + 6 * 16, 32)
        assert (layer.bias_elems, layer.float_ops) == (4 + 16, 6)

    def test_kernels_that_are_unpacked_are_those_of_what_reads_them(self, template):
        """As integers, behind an operator that a runtime runs once."""
        model = parse_model(template.content)
        graph = model.subgraphs[0]
        (piece,) = template.pieces["rnn/kernel"]
        kernel = graph.tensors[piece.tensor]
        unpacked = add_tensor(model, (UNITS, WIDTH), TYPES.FLOAT32, scale=())
        kernel.type, kernel.quantization = TYPES.INT8, quantization([0.5], [0], 0)
        set_buffer(model, kernel, np.ones((UNITS, WIDTH), np.int8))
        add_operator(model, "DEQUANTIZE", [piece.tensor], unpacked)
        graph.operators[3].inputs = [graph.operators[3].inputs[0], unpacked, -1]
        graph.operators = [
            *graph.operators[:3],
            graph.operators[-1],
            *graph.operators[3:-1],
        ]
        changed = dataclasses.replace(
            template,
            content=check_model(write_model(model)),
            islands={"rnn": (3, 4, 5, 6, 7, 8, 9)},
        )
        found, expected = read_workload(changed), read_workload(template)
        assert found.layers[:4] == expected.layers[:4]

    def test_a_table_of_integers(self):
        """Six rows of 4 of a table of 50, made floats: 24 elements, each twice."""
        ids = np.zeros((1, 6), np.int32)
        made = np.zeros((1, 6, 4), np.float32)
        model = float_graph("GATHER", ids, [made[0, :1], None], [made])
        graph = model.subgraphs[0]
        rows = np.zeros((50, 4), np.int8)
        table = add_tensor(model, rows.shape, values=rows)
        found = add_tensor(model, made.shape)
        options = options_of("GatherOptions")
        graph.operators = []
        add_operator(model, "GATHER", [table, 0], found, options)
        add_operator(model, "DEQUANTIZE", [found], 2)
        template = Template(
            content=check_model(write_model(model)),
            tensors={},
            kernels={},
            clamps={},
            before_clamps=(),
            islands={"table": (0, 1)},
            pieces={
                "table": (
                    KernelPiece(tensor=table, offset=0, sizes=(200,), strides=(1,)),
                )
            },
        )
        workload = read_workload(template)
        assert workload.layers == (
            LayerWorkload(
                name="table",
                kind=OpKind.FLOAT,
                inputs=("t0",),
                output="table",
                weights="table",
                weight_elems=200,
                float_ops=2,
                float_elems=48,
            ),
        )
        assert workload.float_tensors == {"t0", "table"}

    def test_files_say_nothing_more_of_integers(self, workload):
        document = workload.to_json()
        assert "float_ops" not in document["layers"][0]
        assert document["layers"][3]["float_elems"] == 72
        assert Workload.from_json(json.loads(json.dumps(document))) == workload

    @pytest.mark.parametrize(
        ("islands", "message"),
        [
            ({"rnn": (3, 4, 5, 6, 7, 8), "other": (4, 5)}, "some twice"),
            ({"rnn": (3, 4, 5, 6, 7, 8, 99)}, "some twice, or others"),
            ({"a": (3, 6), "b": (4, 5, 7, 8)}, "read of each other"),
            ({"rnn": (3, 4, 5, 6, 7)}, r"not so are those at \[8\]"),
            ({"rnn": (1, 3, 4, 5, 6, 7, 8)}, r"not so are those at \[1\]"),
            ({}, r"not so are those at \[3, 4, 5, 6, 7, 8\]"),
        ],
    )
    def test_islands_that_are_not_there_are_refused(self, template, islands, message):
        changed = dataclasses.replace(template, islands=islands)
        with pytest.raises(ModelError, match=message):
            read_workload(changed)


class TestCost:
    def test_each_row_of_a_processor(self, workload):
        cost = estimate(workload, wide(workload), load_target("cortex_m4_cmsis_nn"))
        kernel, recurrent, rest = cost.layers[1:4]
        # At the target's own clock: 7 cycles for a product, 100 for an element.
        assert (kernel.unit, kernel.cycles) == ("cpu", 6 * 32 * 7)
        assert (recurrent.cycles, rest.cycles) == (6 * 16 * 7, 72 * 100)
        assert kernel.bops == 6 * 32 * 32 * 32
        seconds = 72 * 100 / 120e6
        assert rest.energy_pj == pytest.approx(seconds * 51.9e-3 * 1e12)
        # Packed kernels, with a step for each of 4 channels; two in the second's parts.
        assert kernel.weight_bytes == 32 + 4 * 4
        assert recurrent.weight_bytes == 16 + 4 * 2
        assert rest.weight_bytes == 4 * 4
        # While the rest runs: 8 and 4 floats of six rows and half of that, its output.
        assert cost.peak_activation_bytes == 48 + 4 * (24 + 12) + 24

    def test_where_integers_take_a_byte(self, workload):
        cost = estimate(workload, POLICY, load_target("host_litert"))
        kernel, recurrent, rest = cost.layers[1:4]
        # Each operator takes 33.63 ns besides.
        assert kernel.cycles == pytest.approx(6 * 32 * 0.03833 + 33.63)
        assert recurrent.cycles == pytest.approx(6 * 16 * 0.03833 + 2 * 33.63)
        assert rest.cycles == pytest.approx(72 * 0.06839 + 3 * 33.63)
        assert recurrent.weight_bytes == 16 + 4 * 2
        assert cost.peak_activation_bytes == 48 + 4 * (24 + 12) + 24

    def test_sums_by_table_are_those_of_the_layers(self, workload):
        for name in ("host_litert", "bismo_ultra96"):
            model = CostModel(workload, load_target(name), batch_size=3)
            cost, totals = model.estimate(POLICY), model.totals(POLICY)
            for figure, value in totals.items():
                assert getattr(cost, figure) == pytest.approx(value)

    @pytest.mark.parametrize("name", list_targets())
    def test_a_target_without_a_processor_names_the_layers(self, workload, name):
        target = load_target(name)
        if target.ops_for(OpKind.FLOAT):
            assert all(
                one.cycles > 0
                for one in CostModel(workload, target).estimate(wide(workload)).layers
            )
            return
        names = r"\['rnn/kernel', 'rnn/recurrent', 'rnn'\]"
        for refuse in (
            lambda: CostModel(workload, target),
            lambda: legal_space(SPACE, workload, target),
        ):
            with pytest.raises(TargetError, match=f"stays in float: {names}"):
                refuse()
        found = check_policy(workload, wide(workload), target)
        found = [one for one in found if one.constraint == "constraint_supported_ops"]
        assert {one.layer for one in found} == {"rnn/kernel", "rnn/recurrent", "rnn"}

    def test_widths_of_a_kernel_are_those_that_a_processor_takes(self, workload):
        m4 = legal_space(SPACE, workload, load_target("cortex_m4_cmsis_nn"))
        assert m4.weights["rnn/kernel"] == (8,)
        u55 = legal_space(SPACE, workload, load_target("ethos_u55_128"))
        assert u55.weights["rnn/kernel"] == (4, 8)
        assert u55.activations["dense"] == (8,)

    def test_a_float_output_and_a_float_input(self):
        """Indices of a table, which nothing quantizes: 4 bytes each."""
        workload = Workload(
            layers=(
                LayerWorkload(
                    name="table",
                    kind=OpKind.FLOAT,
                    inputs=("ids",),
                    output="table",
                    weights="table",
                    weight_elems=50 * 8,
                    float_ops=1,
                    float_elems=48,
                ),
            ),
            tensors={
                "ids": TensorWorkload(name="ids", shape=(6,), activation=None),
                "table": TensorWorkload(name="table", shape=(6, 8), activation=None),
            },
            inputs=("ids",),
            outputs=("table",),
        )
        policy = Policy(weights={"table": 4}, activations={})
        target = load_target("bismo_ultra96")
        assert not check_policy(workload, policy, target)
        cost = estimate(workload, policy, target)
        assert cost.peak_activation_bytes == 4 * 6 + 4 * 48
        assert cost.weight_bytes == 200 + 4 * 8
        assert cost.mean_activation_bits == 32
        space = PolicySpace(weights={"table": (2, 4)}, activations={})
        assert legal_space(space, workload, target) == space


SPACE = PolicySpace(
    weights=dict.fromkeys(POLICY.weights, (4, 8)),
    activations=dict.fromkeys(POLICY.activations, (4, 8)),
)


def wide(workload):
    return Policy(
        weights=dict.fromkeys(POLICY.weights, 8), activations=POLICY.activations
    )


REASONS = {"rnn": "Expected layers that integer kernels compute,\n  got 'rnn' (RNN)"}


@pytest.fixture(name="artifact", scope="module")
def _artifact(template, workload):
    return dataclasses.replace(
        digits_artifact(),
        workload=workload,
        template=template.content,
        template_map=template.places,
        space=SPACE,
        provenance={"float_layers": REASONS},
    )


class TestLists:
    """What is printed of layers in float: names, reasons, their share of the cost."""

    def test_an_artifact_prints_them(self, artifact):
        text = repr(artifact)
        # 288 of 672 multiply-accumulates are those of the two kernels.
        assert "1 layer in float, 42.9% of the MACs:" in text
        assert "    rnn: Expected layers" in text
        bare = dataclasses.replace(artifact, provenance={})
        assert bare.float_layers == {"rnn": ""}
        assert "\n    rnn\n" in f"{bare!r}\n"

    def test_costs_on_targets_list_them(self, artifact):
        names = ("host_litert", "mpic")
        policies = {"w8a8": wide(artifact.workload)}
        unused = ModelBuilder(digits_artifact())  # of files, for a compiler
        targets = [load_target(one) for one in names]
        matrix = cost_matrix(artifact, policies, targets, unused)
        price = estimate(artifact.workload, policies["w8a8"], load_target(names[0]))
        figures = matrix.entry("w8a8", "host_litert").figures
        assert figures["float_share"] == pytest.approx(price.float_share)
        # In float 40.98936, 70.93968 and 105.81408 cycles; beside them a dense layer,
        # of 8 channels that fill 16, a ReLU of 24 elements, and the network's own.
        dense = 768 * 0.002648 + 48 * 0.01024 + 48 * 0.03434 + 64 * 0.002948
        integers = dense + 24 / 34.55 + 2 * 33.63 + 410.8
        expected = 217.74312 / (217.74312 + integers)
        assert price.float_share == pytest.approx(expected)
        (refusal,) = matrix.entry("w8a8", "mpic").violations
        assert "stays in float: ['rnn/kernel', 'rnn/recurrent', 'rnn']" in refusal
        for text in (matrix_to_text(matrix), matrix_to_markdown(matrix)):
            assert re.search("Stays in float:?\n+- rnn: Expected .* got 'rnn'", text)
            assert f"{100 * price.float_share:.1f}" in text
        assert "float_share" in matrix_to_csv(matrix)
        assert matrix_from_json(matrix_to_json(matrix)) == matrix

    def test_networks_of_integers_say_nothing_of_it(self):
        artifact = digits_artifact()
        policies = {"w8a8": artifact.space.widest()}
        matrix = cost_matrix(artifact, policies, [load_target("mpic")])
        assert "float_share" not in matrix.entries[0].figures
        assert "float_layers" not in matrix_to_json(matrix)
        assert "in float" not in matrix_to_text(matrix)
        assert "in float" not in repr(artifact)

    def test_no_compiler_prices_them(self, artifact):
        """Vela would say nothing of what it leaves to the processor."""
        target = load_target("ethos_u55_128")
        costs = PolicyCosts(artifact, target, builder=None)
        assert costs.kind == "modelled"
        assert (costs(wide(artifact.workload))["float_share"] or 0.0) > 0.5
