"""Networks that are drawn to be timed: they run, and are what their workloads say."""

from __future__ import annotations

import numpy as np
import pytest

from matar_tf.tflite._schema import op_name, parse_model
from matar_tf.tflite.drawing import Drawing
from matar_tf.tflite.drawn_networks import Limits, draw_networks
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.simulator import simulate
from matar_tf.tflite.template import Template
from matar_tf.tflite.workload import read_workload
from matar_tf.workload import OpKind


def with_all_kinds() -> Template:
    drawing = Drawing(np.random.default_rng(0))
    x = drawing.input(8, 8, 3)
    x = drawing.conv(x, 16, 3, 2)
    y = drawing.depthwise(x, 3, 1)
    x = drawing.pair("ADD", x, y)
    x = drawing.pair("MUL", x, drawing.mean(x))
    x = drawing.concat(drawing.pair("MAXIMUM", x, y), y)
    x = drawing.pool("MAX_POOL_2D", x, 2, 2)
    x = drawing.pool("AVERAGE_POOL_2D", x, 3, 1)
    for name in ("LOGISTIC", "TANH", "LEAKY_RELU", "GELU", "ELU", "EXP", "SOFTMAX"):
        x = drawing.requantized(drawing.pointwise(name, x))
    x = drawing.resize(drawing.pad(drawing.transpose(x)))
    x = drawing.transposed(x, 8, 3)
    x = drawing.dense(drawing.reshape(x, (x.elems,)), 10)
    return drawing.finish(x)


class TestDrawing:
    def test_the_runtime_and_the_simulator_agree_on_a_network_of_all_kinds(self):
        content = with_all_kinds().content
        model = parse_model(content)
        names = {op_name(model, one) for one in model.subgraphs[0].operators}
        assert len(names) == 24
        samples = np.random.default_rng(1).normal(size=(3, 1, 8, 8, 3))
        for sample in samples.astype(np.float32):
            found = Runner(content).predict(sample)
            np.testing.assert_array_equal(found, simulate(content, sample))

    def test_a_workload_says_what_is_drawn(self):
        drawing = Drawing(np.random.default_rng(0))
        x = drawing.conv(drawing.input(6, 6, 3), 8, 3, 2)
        x = drawing.depthwise(x, 5, 1)
        x = drawing.transposed(x, 4, 2)
        x = drawing.dense(x, 10)
        workload = read_workload(drawing.finish(x))
        assert [(one.kind, one.macs) for one in workload.layers] == [
            (OpKind.CONV, 3 * 3 * 8 * 3 * 3 * 3),
            (OpKind.DEPTHWISE_CONV, 3 * 3 * 8 * 5 * 5),
            (OpKind.TRANSPOSED_CONV, 3 * 3 * 8 * 4 * 2 * 2),
            (OpKind.DENSE, 6 * 6 * 4 * 10),
        ]


class TestDrawNetworks:
    def test_seeds_decide(self):
        one, same, other = (
            [network.content for network in draw_networks(3, seed=seed)]
            for seed in (1, 1, 2)
        )
        assert one == same
        assert not set(one) & set(other)

    def test_many_have_all_kinds_of_integers(self):
        found = {
            layer.kind for one in draw_networks(60) for layer in one.workload.layers
        }
        assert found == {*OpKind} - {OpKind.FLOAT}

    @pytest.mark.parametrize("weight_kib", [16, 64])
    def test_they_keep_within_limits(self, weight_kib):
        limits = Limits(weight_bytes=weight_kib << 10, tensor_bytes=1 << 14)
        for one in draw_networks(20, limits=limits):
            tensors = one.workload.tensors.values()
            assert max(tensor.elems for tensor in tensors) <= limits.tensor_bytes
            weights = [layer.weight_elems for layer in one.workload.layers]
            # The last layer, of ten classes, and the first are always there.
            assert sum(weights[1:-1]) <= limits.weight_bytes
