"""Layers without an integer kernel, beside an integer graph: what is said of them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from fixtures.graphs import (
    TYPES,
    add_operator,
    add_tensor,
    float_graph,
    multiplication,
    options_of,
)

from matar_tf.errors import DataError, ExportError
from matar_tf.policy import Policy
from matar_tf.tflite._floats import float_operators, float_tensors
from matar_tf.tflite._graph_rules import check_model
from matar_tf.tflite._schema import OneSampleModel, op_name, parse_model, write_model
from matar_tf.tflite.inspect import inspect_model
from matar_tf.tflite.latency import measure_latencies, profile_operators
from matar_tf.tflite.metadata import add_metadata
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.simulator import simulate, simulate_tensors
from matar_tf.tflite.verify import run_all_tensors, verify

ROWS, WIDTH = 6, 8
SAMPLES = np.random.default_rng(0).normal(0, 4, (5, ROWS, WIDTH)).astype(np.float32)


def attention(shape=(-1, 2 * ROWS, WIDTH // 2)):
    """A dense layer, attention in float to its own results, cut in two, a ReLU.

    Args:
      shape: What the halves are brought to before; a first size of 1 makes the file one
        of one sample.
    """
    row = (1, ROWS, WIDTH)
    options = options_of("FullyConnectedOptions", keepNumDims=True)
    model = multiplication("FULLY_CONNECTED", row, (WIDTH, WIDTH), row, options)
    floats = {"kind": TYPES.FLOAT32, "scale": ()}
    whole = add_tensor(model, row, **floats)
    stored = np.array(shape, np.int32)
    sizes = add_tensor(model, (3,), TYPES.INT32, scale=(), values=stored)
    halves = add_tensor(model, (1, *shape[1:]), **floats)
    scores = add_tensor(model, (1, shape[1], shape[1]), **floats)
    shares = add_tensor(model, (1, shape[1], shape[1]), **floats)
    mixed = add_tensor(model, (1, *shape[1:]), **floats)
    coarse = add_tensor(model, (1, *shape[1:]), scale=(0.75,), zero_point=-3)
    result = add_tensor(model, (1, *shape[1:]), scale=(0.75,), zero_point=-3)
    output = add_tensor(model, (1, *shape[1:]), **floats)
    product = options_of("BatchMatMulOptions")
    add_operator(model, "DEQUANTIZE", [2], whole)
    add_operator(model, "RESHAPE", [whole, sizes], halves)
    add_operator(
        model,
        "BATCH_MATMUL",
        [halves, halves],
        scores,
        options_of("BatchMatMulOptions", adjY=True),
    )
    softmax = options_of("SoftmaxOptions", beta=0.01)
    add_operator(model, "SOFTMAX", [scores], shares, softmax)
    add_operator(model, "BATCH_MATMUL", [shares, halves], mixed, product)
    add_operator(model, "QUANTIZE", [mixed], coarse)
    add_operator(model, "RELU", [coarse], result)
    add_operator(model, "DEQUANTIZE", [result], output)
    model.subgraphs[0].outputs = [output]
    return model


ONE_SAMPLE = (1, 2 * ROWS, WIDTH // 2)


class TestVerify:
    @pytest.mark.parametrize("shape", [(-1, 2 * ROWS, WIDTH // 2), ONE_SAMPLE])
    def test_every_integer_is_what_follows_from_the_floats(self, shape):
        content = check_model(write_model(attention(shape)))
        assert isinstance(content, OneSampleModel) == (shape == ONE_SAMPLE)
        found = verify(content, SAMPLES)
        assert (found.runtime_share, found.agreement) == (0.0, 1.0)
        assert [one.operator for one in found.layers] == [
            *("QUANTIZE", "FULLY_CONNECTED", "QUANTIZE", "RELU")
        ]
        assert found.first_runtime_difference is None

    def test_a_batch_is_what_its_samples_are(self):
        apart = check_model(write_model(attention()))
        alone = check_model(write_model(attention(ONE_SAMPLE)))
        np.testing.assert_array_equal(
            Runner(apart).predict(SAMPLES), Runner(alone).predict(SAMPLES)
        )

    def test_a_wrong_level_is_seen(self):
        content = check_model(write_model(attention()))
        measured = run_all_tensors(content, SAMPLES)
        (index,) = set(float_tensors(parse_model(content))) & set(measured)
        floats = {index: measured[index] + np.float32(0.75)}
        simulated = simulate_tensors(content, SAMPLES, floats=floats)
        coarse = index + 1
        inside = measured[coarse] < 127
        np.testing.assert_array_equal(
            simulated[coarse][inside], measured[coarse][inside] + 1
        )

    def test_a_simulation_alone_has_no_floats(self):
        content = check_model(write_model(attention()))
        with pytest.raises(ExportError, match="which layers without an integer kernel"):
            simulate(content, SAMPLES)

    def test_a_float_output_is_the_runtimes(self):
        model = attention()
        graph = model.subgraphs[0]
        graph.operators = graph.operators[:-3]
        graph.outputs = [int(graph.operators[-1].outputs[0])]
        content = check_model(write_model(model))
        assert verify(content, SAMPLES).runtime_share == 0
        with pytest.raises(ExportError, match="the last bits of float arithmetic"):
            simulate(content, SAMPLES)


def test_what_is_beside_the_integer_graph():
    model = attention()
    names = [
        op_name(model, model.subgraphs[0].operators[i]) for i in float_operators(model)
    ]
    assert names == ["RESHAPE", "BATCH_MATMUL", "SOFTMAX", "BATCH_MATMUL"]


def test_constants_of_float_operators_are_shown():
    """A table of rows, unpacked, and slopes that are stored in float."""
    model = attention()
    graph = model.subgraphs[0]
    stored = np.ones((WIDTH // 2,), np.int8)
    table = add_tensor(model, stored.shape, values=stored)
    unpacked = add_tensor(model, stored.shape, TYPES.FLOAT32, scale=())
    scaled = add_tensor(model, graph.tensors[graph.operators[6].outputs[0]].shape)
    graph.tensors[scaled].type, graph.tensors[scaled].quantization = 0, None
    add_operator(model, "DEQUANTIZE", [table], unpacked)
    product = graph.operators[6].outputs[0]
    options = options_of("MulOptions")
    add_operator(model, "MUL", [product, unpacked], scaled, options)
    graph.operators = [
        *graph.operators[:7],
        *graph.operators[-2:],
        *graph.operators[7:-2],
    ]
    graph.operators[9].inputs = [scaled]
    policy = Policy(weights={"gain": 4}, activations={}).to_json()
    add_metadata(model, {"policy": policy, "kernels": {f"t{table}": "gain"}})
    content = check_model(write_model(model))
    assert verify(content, SAMPLES).runtime_share == 0
    info = inspect_model(content)
    rows = {one.op: one for one in info.operators if one.is_float}
    assert [*rows] == ["RESHAPE", "BATCH_MATMUL", "SOFTMAX", "MUL"]
    assert (rows["MUL"].entry, rows["MUL"].weight_bits) == ("gain", 4)
    assert (rows["MUL"].storage, rows["MUL"].num_bytes) == ("INT8", 4)
    assert rows["SOFTMAX"].num_bytes == 0
    assert re.search(r"MUL +gain +4 +INT8 +float +4$", repr(info), re.MULTILINE)


def test_each_operator_is_timed():
    content = check_model(write_model(attention()))
    found = profile_operators(content, num_repeats=1)
    assert [one.operator for one in found][2:4] == ["DEQUANTIZE", "RESHAPE"]


@pytest.mark.parametrize("index", [-1, 2, 2**31 - 1])
def test_an_index_beyond_a_table_is_said_of_the_data(index):
    model = float_graph(
        "GATHER",
        np.zeros((1, 3), np.int32),
        [np.ones((2, 2), np.float32), None],
        [np.ones((1, 3, 2), np.float32)],
        options_of("GatherOptions"),
    )
    runner = Runner(write_model(model))
    assert runner.predict(np.array([[0, 1, 1]], np.int32)).shape == (1, 3, 2)
    with pytest.raises(DataError, match=r"indices of rows that the tables .* have"):
        runner.predict(np.array([[0, index, 1]], np.int32))


def test_an_index_is_timed_on_the_first_row():
    model = float_graph(
        "GATHER",
        np.zeros((1, 3), np.int32),
        [np.ones((1, 2), np.float32), None],
        [np.ones((1, 3, 2), np.float32)],
        options_of("GatherOptions"),
    )
    (found,) = measure_latencies([write_model(model)], num_repeats=2)
    assert found.median_ms > 0
