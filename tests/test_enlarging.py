"""An image that is enlarged twice: from the converter's graph to prices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fixtures.graphs import (
    TYPES,
    add_operator,
    add_tensor,
    multiplication,
    options_of,
)

from matar_tf.pricing.arrays import array_cycles
from matar_tf.pricing.demand import demand_of
from matar_tf.targets import list_targets, load_target
from matar_tf.template_map import KernelPlace
from matar_tf.tflite import runtime
from matar_tf.tflite._schema import quantization, write_model
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.template import Fingerprints, Template, read_template
from matar_tf.tflite.workload import read_workload
from matar_tf.workload import OpKind, Workload

IMAGE, LARGE = (1, 4, 6, 2), (1, 8, 12, 2)
SCALES = {"image": 0.02, "up": 0.0201, "sum": 0.0203}
KERNEL = 0.0005


def enlarged() -> bytes:
    """Image x to (transposed convolution of x) + (bilinear resize of x)."""
    conv = options_of("TransposeConvOptions", strideH=2, strideW=2)
    model = multiplication("TRANSPOSE_CONV", IMAGE, (2, 3, 3, 2), LARGE, conv)
    tensors = model.subgraphs[0].tensors
    for index, entry in ((1, "image"), (2, "up")):
        tensors[index].quantization = quantization([SCALES[entry]], [0], 0)
    tensors[3].quantization = quantization([KERNEL], [0], 0)
    tensors[4].quantization = quantization([KERNEL * SCALES["image"]], [0], 0)

    def setting(*values: int) -> int:
        stored = np.array(values, np.int32)
        return add_tensor(model, stored.shape, TYPES.INT32, scale=(), values=stored)

    model.subgraphs[0].operators[1].inputs = [setting(*LARGE), 3, 1, 4]
    resized = add_tensor(model, LARGE, scale=[SCALES["image"]])
    options = options_of("ResizeBilinearOptions", halfPixelCenters=True)
    add_operator(model, "RESIZE_BILINEAR", [1, setting(8, 12)], resized, options)
    total = add_tensor(model, LARGE, scale=[SCALES["sum"]])
    add_operator(model, "ADD", [2, resized], total, options_of("AddOptions"))
    output = add_tensor(model, LARGE, TYPES.FLOAT32, scale=())
    add_operator(model, "DEQUANTIZE", [total], output)
    model.subgraphs[0].outputs = [output]
    return write_model(model)


@pytest.fixture(scope="module")
def template() -> Template:
    prints = Fingerprints(weights={"up": KERNEL}, activations=SCALES, signed=())
    return read_template(enlarged(), prints)


@pytest.fixture(scope="module")
def workload(template: Template) -> Workload:
    return read_workload(template)


def test_what_a_transposed_convolution_reads_is_not_its_kernel(
    template: Template,
) -> None:
    """It has the shape of its output first, and its image after its kernel."""
    assert template.kernels == {"up": KernelPlace(operator=1, input="image")}
    assert set(template.tensors.values()) == set(SCALES)
    Template.of(template.content, template.places)  # two operators read its image


def test_counts_by_hand(workload: Workload) -> None:
    """Each of 4 x 6 pixels meets each of 2 x 3 x 3 x 2 weights."""
    layers = {one.kind: one for one in workload.layers}
    assert list(layers) == [OpKind.TRANSPOSED_CONV, OpKind.RESIZE, OpKind.ADD]
    conv = layers[OpKind.TRANSPOSED_CONV]
    assert (conv.macs, conv.weight_elems, conv.bias_elems) == (24 * 36, 36, 2)
    assert (conv.kernel_size, conv.strides, conv.groups) == ((3, 3), (2, 2), 1)
    assert conv.inputs == ("image",)
    resize = layers[OpKind.RESIZE]
    assert resize.kernel_size == (2, 2)  # of four neighbours
    assert demand_of(resize, workload, (None, (8,), 8)).num_elems == 4 * 8 * 12 * 2


@pytest.mark.parametrize("name", list_targets())
def test_every_target_prices_both(name: str, workload: Workload) -> None:
    """An array that knows no transposed convolution puts zeros between the pixels."""
    target = load_target(name)
    if not target.ops_for(OpKind.TRANSPOSED_CONV):
        assert name in ("max78000", "n_eureka", "ti_npu")
        return
    for layer in workload.layers:
        assert target.ops_for(layer.kind)
    (conv,) = (one for one in workload.layers if one.weights)
    cycles = array_cycles(demand_of(conv, workload, (8, (8,), 8)), target)
    kind: Any = target.compute
    if kind.kind == "bit_parallel":
        rate = kind.rate(OpKind.TRANSPOSED_CONV, 8, 8)
        # 2 channels in steps, 48 inputs, 192 outputs and 36 weights.
        steps = rate.input_step * rate.output_step / 4 if rate.input_step > 1 else 1
        others = 48 * rate.cycles_per_input + 192 * rate.cycles_per_output
        others += 36 * rate.cycles_per_weight
        assert cycles == pytest.approx(864 * steps * rate.cycles + others)
    elif kind.kind == "bit_serial":  # of 2 x 3 x 3 x 2 and 8 x 12, in one block of each
        blocks = -(-18 // kind.dk) * -(-2 // kind.dm) * -(-96 // kind.dn)
        assert cycles == 64 * blocks
    elif kind.kind == "fused":  # it reads the network's input: 18 inputs on 16 rows
        assert cycles == 96 * 2
    else:
        assert cycles > 0


def test_a_file_runs_at_any_batch_size(template: Template) -> None:
    samples = np.random.default_rng(0).uniform(-2.5, 2.5, (5, *IMAGE[1:]))
    runner = Runner(template.content)
    together = runner.predict(samples.astype(np.float32))
    alone = runner.predict(samples.astype(np.float32), batch_size=1)
    np.testing.assert_array_equal(together, alone)


def test_builtin_kernels_run_one_sample_at_a_time(
    template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file holds the shape of one sample, which they take for that of all."""
    load = runtime.load_interpreter
    monkeypatch.setattr(runtime, "load_interpreter", lambda _: load("litert"))
    sizes: list[int] = []
    runner = Runner(template.content, runtime="tflite_runtime")
    invoke = runner._invoke
    monkeypatch.setattr(
        runner, "_invoke", lambda batch: (sizes.append(len(batch)), invoke(batch))[1]
    )
    runner.predict(np.zeros((3, *IMAGE[1:]), np.float32))
    assert sizes == [1, 1, 1]
