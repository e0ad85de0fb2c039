"""Tensors of 16 bits compute in NumPy what LiteRT's kernels do, on every value."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.graphs import (
    TYPES,
    add_operator,
    add_tensor,
    float_graph,
    graph_of,
    multiplication,
    options_of,
)
from fixtures.paths import DATA, ROOT, SHIPPED

from matar_tf.artifact import read_artifact
from matar_tf.errors import ExportError, PolicyError, TargetError
from matar_tf.operators import OPERATORS, CostShape, Grid
from matar_tf.policy import Policy
from matar_tf.pricing import CostModel, check_policy
from matar_tf.pricing.layer_widths import LayerWidths
from matar_tf.space import PolicySpace
from matar_tf.targets import list_targets, load_target
from matar_tf.tflite._graph_rules import check_model, find_fault
from matar_tf.tflite._schema import (
    bias_of,
    op_name,
    parse_model,
    quantization,
    schema,
    set_buffer,
    text_of,
    write_model,
)
from matar_tf.tflite._site import Site
from matar_tf.tflite._sixteen import SIMULATED_AT_16
from matar_tf.tflite._widening import widen
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.file_size import FileSizes
from matar_tf.tflite.inspect import inspect_model
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.simulator import simulate_tensors
from matar_tf.tflite.template import Template
from matar_tf.tflite.verify import run_all_tensors, verify

IMAGE = (1, 4, 6, 8)
ALL = np.arange(-(2**15), 2**15)
SAME = schema.Padding.SAME


def conv(kernel: Any, *, dilation: int = 1, fused: int = 0) -> Any:
    options = options_of(
        "Conv2DOptions",
        strideH=1,
        strideW=1,
        dilationHFactor=dilation,
        dilationWFactor=dilation,
        padding=SAME,
        fusedActivationFunction=fused,
    )
    result = (*IMAGE[:3], kernel[0])
    return multiplication("CONV_2D", IMAGE, kernel, result, options)


def depthwise(multiplier: int, fused: int = 0) -> Any:
    options = options_of(
        "DepthwiseConv2DOptions",
        strideH=2,
        strideW=2,
        dilationHFactor=1,
        dilationWFactor=1,
        depthMultiplier=multiplier,
        padding=SAME,
        fusedActivationFunction=fused,
    )
    channels = 8 * multiplier
    shapes = IMAGE, (1, 3, 3, channels), (1, 2, 3, channels)
    return multiplication("DEPTHWISE_CONV_2D", *shapes, options, axis=3)


def transposed(*, has_bias: bool) -> Any:
    options = options_of("TransposeConvOptions", strideH=2, strideW=2, padding=SAME)
    result = (1, 8, 12, 7)
    model = multiplication("TRANSPOSE_CONV", IMAGE, (7, 3, 3, 8), result, options)
    stored = np.array(result, np.int32)
    index = add_tensor(model, (4,), TYPES.INT32, scale=(), values=stored)
    inputs = [index, 3, 1, 4] if has_bias else [index, 3, 1]
    model.subgraphs[0].operators[1].inputs = inputs
    return model


def dense(fused: int = 0, *, per_channel: bool = True) -> Any:
    options = options_of("FullyConnectedOptions", fusedActivationFunction=fused)
    model = multiplication("FULLY_CONNECTED", (1, 24), (40, 24), (1, 40), options)
    if not per_channel:
        for tensor in model.subgraphs[0].tensors[3:5]:
            tensor.quantization = quantization([1.0], [0], 0)
    return model


def pair(name: str, options: str, fused: int = 0) -> Any:
    kind = options_of(options)
    if fused:
        kind.fusedActivationFunction = fused
    return graph_of(name, IMAGE, IMAGE, kind, num_inputs=2)


def pool(name: str, fused: int = 0) -> Any:
    options = options_of(
        "Pool2DOptions",
        strideH=2,
        strideW=2,
        filterHeight=3,
        filterWidth=2,
        padding=SAME,
        fusedActivationFunction=fused,
    )
    return graph_of(name, IMAGE, (1, 2, 3, 8), options)


def mean(result: Any, *, keeps: bool, axes: Any = (1, 2)) -> Any:
    options = options_of("ReducerOptions", keepDims=keeps)
    return graph_of("MEAN", IMAGE, result, options, axes)


def resize(name: str, kind: str) -> Any:
    options = options_of(f"Resize{kind}Options", halfPixelCenters=True)
    return graph_of(name, IMAGE, (1, 8, 18, 8), options, [8, 18])


GRAPHS = {
    "conv": lambda: conv((7, 3, 3, 8)),
    "conv_relu": lambda: conv((7, 3, 3, 8), fused=1),
    "grouped": lambda: conv((12, 3, 3, 2)),
    "dilated": lambda: conv((7, 3, 3, 8), dilation=2),
    "depthwise": lambda: depthwise(2),
    "depthwise_relu6": lambda: depthwise(1, fused=3),
    "transposed": lambda: transposed(has_bias=True),
    "transposed_bare": lambda: transposed(has_bias=False),
    "dense": dense,
    "dense_relu": lambda: dense(1),
    "dense_of_one_step": lambda: dense(per_channel=False),
    "add": lambda: pair("ADD", "AddOptions"),
    "add_relu": lambda: pair("ADD", "AddOptions", 1),
    "subtract": lambda: pair("SUB", "SubOptions"),
    "multiply": lambda: pair("MUL", "MulOptions"),
    "multiply_relu6": lambda: pair("MUL", "MulOptions", 3),
    "maximum": lambda: pair("MAXIMUM", "MaximumMinimumOptions"),
    "minimum": lambda: pair("MINIMUM", "MaximumMinimumOptions"),
    "average_pool": lambda: pool("AVERAGE_POOL_2D"),
    "average_pool_relu": lambda: pool("AVERAGE_POOL_2D", 1),
    "max_pool": lambda: pool("MAX_POOL_2D"),
    "mean": lambda: mean((1, 8), keeps=False),
    "mean_kept": lambda: mean((1, 1, 1, 8), keeps=True),
    "mean_of_rows": lambda: mean((1, 6, 8), keeps=False, axes=[1]),
    "max_kept": lambda: graph_of(
        "REDUCE_MAX",
        IMAGE,
        (1, 1, 1, 8),
        options_of("ReducerOptions", keepDims=True),
        [1, 2],
    ),
    "relu": lambda: graph_of("RELU", IMAGE, IMAGE),
    "relu6": lambda: graph_of("RELU6", IMAGE, IMAGE),
    "leaky_relu": lambda: graph_of(
        "LEAKY_RELU", IMAGE, IMAGE, options_of("LeakyReluOptions", alpha=0.3)
    ),
    "softmax": lambda: graph_of(
        "SOFTMAX", (1, 6, 40), (1, 6, 40), options_of("SoftmaxOptions", beta=1.0)
    ),
    "bilinear": lambda: resize("RESIZE_BILINEAR", "Bilinear"),
    "nearest": lambda: resize("RESIZE_NEAREST_NEIGHBOR", "NearestNeighbor"),
    "reshape": lambda: graph_of("RESHAPE", IMAGE, (1, 192), None, [-1, 192]),
    "expand": lambda: graph_of("EXPAND_DIMS", (1, 4, 8), (1, 1, 4, 8), None, [1]),
    "squeeze": lambda: graph_of(
        "SQUEEZE", (1, 1, 8), (1, 8), options_of("SqueezeOptions", squeezeDims=[1])
    ),
    "pad": lambda: graph_of(
        "PAD", IMAGE, (1, 5, 6, 12), None, [[0, 0], [1, 0], [0, 0], [3, 1]]
    ),
    "transpose": lambda: graph_of("TRANSPOSE", IMAGE, (1, 6, 8, 4), None, [0, 2, 3, 1]),
    "tile": lambda: graph_of("TILE", IMAGE, (1, 8, 6, 24), None, [1, 2, 1, 3]),
    "slice": lambda: graph_of(
        "STRIDED_SLICE",
        IMAGE,
        (1, 2, 5, 4),
        options_of("StridedSliceOptions", beginMask=1, endMask=1),
        *([0, 1, 0, 0], [0, 3, 5, 8], [1, 1, 1, 2]),
    ),
    "concat": lambda: graph_of(
        "CONCATENATION",
        IMAGE,
        (1, 12, 6, 8),
        options_of("ConcatenationOptions", axis=1),
        num_inputs=3,
    ),
}


def at_16(model: Any, rng: np.random.Generator, step: float) -> Any:
    """Makes a graph's activations int16, with random levels and steps."""
    graph = model.subgraphs[0]
    operator = graph.operators[1]
    row = OPERATORS[op_name(model, operator)]
    own = step * rng.choice([0.07, 0.9, 1.0, 3.0])
    if row.is_product:
        own = step * step * rng.choice([2.0**13, 2.0**16, 2.0**19])
    made = {Grid.OWN: own, Grid.FIXED: 2.0**-15}.get(row.grid, step)
    for index, one in zip((1, 2), (step, made), strict=True):
        graph.tensors[index].type = TYPES.INT16
        graph.tensors[index].quantization = quantization([one], [0], 0)
    if hasattr(operator.builtinOptions, "potScaleInt16"):
        operator.builtinOptions.potScaleInt16 = False
    if row.shape is CostShape.KERNEL:
        kernel = graph.tensors[operator.inputs[1]]
        shape = [int(one) for one in kernel.shape]
        scale = made / step * rng.uniform(1e-3, 3e-2, len(kernel.quantization.scale))
        axis = kernel.quantization.quantizedDimension
        kernel.quantization = quantization(scale, [0] * len(scale), axis)
        set_buffer(model, kernel, rng.integers(-127, 128, shape).astype(np.int8))
        if bias_of(model, operator) >= 0:
            bias = graph.tensors[bias_of(model, operator)]
            bias.type = TYPES.INT64
            counts = rng.integers(-(2**26), 2**26, int(bias.shape[0]))
            set_buffer(model, bias, counts)
            bias.quantization = quantization(step * scale, [0] * len(scale), 0)
    return model


@pytest.mark.parametrize("name", GRAPHS)
def test_operators_compute_what_litert_does(name: str) -> None:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for step in np.float32([3e-5, 1 / 32768, 0.0007, 0.011]):
        model = at_16(GRAPHS[name](), rng, float(step))
        assert find_fault(model) is None
        content = check_model(write_model(model))
        shape = tuple(map(int, model.subgraphs[0].tensors[0].shape))
        count = 1 if "transposed" in name else 3
        levels = rng.integers(-33_000, 33_000, (count, *shape[1:]))
        # Sums of small levels meet halves more often.
        small = rng.integers(-9, 10, levels.shape)
        for one in (levels, small):
            samples = (one * step).astype(np.float32)
            found = simulate_tensors(content, samples)
            expected = run_all_tensors(content, samples)
            for index in (1, 2):
                np.testing.assert_array_equal(found[index], expected[index])
                assert found[index].dtype == expected[index].dtype == np.int16


@pytest.mark.parametrize("step", [3e-5, 2.0**-13, 0.00031, 0.0024, 0.5])
@pytest.mark.parametrize("name", ["LOGISTIC", "TANH", "EXP", "GELU"])
def test_functions_of_every_input(name: str, step: float) -> None:
    options = options_of("GeluOptions", approximate=True) if name == "GELU" else None
    step = min(step, 0.0024) if name == "EXP" else step
    shape = (1, len(ALL))
    model = at_16(graph_of(name, shape, shape, options), np.random.default_rng(0), step)
    if name == "EXP":
        top = min(np.exp(step * 2**15), 1e6) / 2**15
        model.subgraphs[0].tensors[2].quantization = quantization([top], [0], 0)
    content = check_model(write_model(model))
    samples = (ALL * np.float32(step)).astype(np.float32)[None]
    found, expected = (
        one(content, samples) for one in (simulate_tensors, run_all_tensors)
    )
    np.testing.assert_array_equal(found[1][0], ALL)
    np.testing.assert_array_equal(found[2], expected[2])


class TestWhatIsRefused:
    def test_operators_without_such_kernels(self) -> None:
        options = options_of("DepthToSpaceOptions", blockSize=2)
        blocks = graph_of("DEPTH_TO_SPACE", IMAGE, (1, 8, 12, 2), options)
        rng = np.random.default_rng(0)
        for model in (graph_of("ELU", IMAGE, IMAGE), blocks):
            assert find_fault(model) is None
            assert "a kernel for 16 bits" in str(find_fault(at_16(model, rng, 0.001)))

    @pytest.mark.parametrize("factor", [0.99, 1.0])
    def test_sums_that_would_end_the_process(self, factor: float) -> None:
        model = at_16(GRAPHS["add"](), np.random.default_rng(0), 0.5)
        grid = quantization([0.5 / (2**14 * factor)], [0], 0)
        model.subgraphs[0].tensors[2].quantization = grid
        fault = find_fault(model)
        assert fault is None if factor < 1 else "below 16384 times" in str(fault)

    def test_steps_that_have_a_second_way(self) -> None:
        rng = np.random.default_rng(0)
        for name, steps in {
            "LOGISTIC": [2.0**-12],
            "TANH": [2.0**-12, 2.0**-11],
        }.items():
            for step in (*steps, 4.1, 1e-13):
                model = at_16(graph_of(name, IMAGE, IMAGE), rng, step)
                assert "no power of two" in str(find_fault(model))

    @pytest.mark.parametrize(
        ("index", "kind"), [(1, TYPES.INT8), (2, TYPES.INT8), (4, TYPES.INT32)]
    )
    def test_mixed_types(self, index: int, kind: int) -> None:
        model = at_16(GRAPHS["conv"](), np.random.default_rng(0), 0.001)
        tensor = model.subgraphs[0].tensors[index]
        if index == 4:
            set_buffer(model, tensor, np.zeros(7, np.int32))
        tensor.type = kind
        assert "of the type" in str(find_fault(model)) or "of its type" in str(
            find_fault(model)
        )

    def test_zero_points(self) -> None:
        model = at_16(GRAPHS["relu"](), np.random.default_rng(0), 0.001)
        model.subgraphs[0].tensors[1].quantization = quantization([0.001], [3], 0)
        assert "zero points in 0..0" in str(find_fault(model))

    def test_old_sums_and_dense_layers_without_a_bias(self) -> None:
        rng = np.random.default_rng(0)
        model = at_16(GRAPHS["add"](), rng, 0.001)
        model.subgraphs[0].operators[1].builtinOptions.potScaleInt16 = True
        assert "powers of two" in str(find_fault(model))
        model = at_16(dense(), rng, 0.001)
        model.subgraphs[0].operators[1].inputs = [1, 3, -1]
        assert "a bias" in str(find_fault(model))


class TestSums:
    """Rare values meet a half in each of both factors: many, on steps of networks."""

    @pytest.mark.parametrize("name", ["ADD", "SUB"])
    def test_two_grids(self, name: str) -> None:
        from ai_edge_litert.interpreter import Interpreter

        rng = np.random.default_rng(0)
        data = rng.integers(-(2**15), 2**15, (2, 1, 400_000)).astype(np.int16)
        for steps in ((8.8e-5, 2.278e-4, 1.142e-4), (9.4e-5, 3.2e-4, 4.4e-4)):
            model = schema.ModelT()
            model.version, model.operatorCodes = 3, []
            model.buffers, graph = [schema.BufferT()], schema.SubGraphT()
            model.subgraphs, graph.tensors, graph.operators = [graph], [], []
            for step in steps:
                add_tensor(model, data[0].shape, TYPES.INT16, scale=[step])
            graph.inputs, graph.outputs = [0, 1], [2]
            options = options_of(f"{name.capitalize()}Options", potScaleInt16=False)
            operator = add_operator(model, name, [0, 1], 2, options)
            interpreter = Interpreter(model_content=write_model(model))
            interpreter.allocate_tensors()
            for index in (0, 1):
                interpreter.set_tensor(index, data[index])
            interpreter.invoke()
            site = Site(model, operator, dict(enumerate(data)), "builtin")
            found = SIMULATED_AT_16[name](site)
            np.testing.assert_array_equal(found, interpreter.get_tensor(2))


@pytest.fixture(scope="module")
def kernels() -> Any:
    return ModelBuilder(read_artifact(DATA / "kernels.matar"))


class TestFiles:
    @pytest.mark.parametrize("path", sorted(DATA.glob("*.matar")), ids=lambda p: p.stem)
    def test_equal_what_the_simulator_computes(self, path: Path) -> None:
        artifact = read_artifact(path)
        builder = ModelBuilder(artifact)
        sizes = FileSizes(builder)
        for name in artifact.space.wide_names()[::3]:
            content = builder.build(artifact.space.named(name))
            runner = Runner(content)
            rng = np.random.default_rng(0)
            samples: Any = {
                one: rng.normal(0.2, 0.5, (5, *shape)).astype(np.float32)
                for one, shape in runner.input_shapes.items()
            }
            if len(samples) == 1:
                (samples,) = samples.values()
            found = verify(content, samples)
            assert found.first_runtime_difference is None
            assert found.agreement == 1.0
            assert sizes(artifact.space.named(name)) == len(content)

    def test_are_what_rounding_to_more_bits_comes_near_to(
        self, kernels: ModelBuilder
    ) -> None:
        rng = np.random.default_rng(0)
        samples, outputs = None, {}
        for name in ("w8a4", "w8a8", "w8a16"):
            runner = Runner(kernels.build(kernels.space.named(name)))
            if samples is None:
                samples = rng.random(
                    (8, *next(iter(runner.input_shapes.values()))), np.float32
                )
            outputs[name] = runner.predict(samples)
        off = [np.abs(outputs[one] - outputs["w8a16"]).mean() for one in outputs]
        assert off[2] == 0 < off[1] < off[0]

    def test_steps_and_types(self, kernels: ModelBuilder) -> None:
        policy = kernels.space.named("w4a16")
        model = parse_model(kernels.build(policy))
        tensors = {text_of(one.name): one for one in model.subgraphs[0].tensors}
        artifact = read_artifact(DATA / "kernels.matar")
        for entry, parameters in artifact.parameters.tensors.items():
            tensor = tensors[entry]
            assert tensor.type == TYPES.INT16
            assert tensor.quantization.zeroPoint == [0]
            largest = 128 if parameters.signed else 255
            expected = parameters.step[-1] * largest / 32767
            assert tensor.quantization.scale[0] == pytest.approx(expected, rel=1e-6)
        for entry in policy.weights:
            assert tensors[f"{entry}/kernel"].type == TYPES.INT8
        types = {one.type for one in model.subgraphs[0].tensors}
        assert types <= {
            TYPES.FLOAT32,
            TYPES.INT8,
            TYPES.INT16,
            TYPES.INT32,
            TYPES.INT64,
        }
        info = inspect_model(kernels.build(policy))
        assert {one.activation_bits for one in info.operators} <= {None, 16}

    def test_profiles_that_pack_kernels_are_refused(
        self, kernels: ModelBuilder
    ) -> None:
        for profile in ("packed-litert", "packed-float", "packed-portable"):
            with pytest.raises(ExportError, match="'int8' for 16-bit activations"):
                kernels.build(kernels.space.named("w4a16"), profile=profile)


class TestPolicies:
    def test_sixteen_bits_are_of_all_activations(self) -> None:
        space = PolicySpace(
            weights={"a": (2, 4, 8), "b": (8,)}, activations={"x": (4, 8), "y": (8,)}
        )
        policy = space.named("w4a16")
        assert policy.is_wide
        assert not space.named("w4a8").is_wide
        assert dict(policy.weights) == {"a": 4, "b": 8}
        assert dict(policy.activations) == {"x": 16, "y": 16}
        assert Policy.from_json(policy.to_json()) == policy
        assert space.wide_names() == ("w8a16", "w4a16", "w2a16")
        assert space.num_policies == 6  # they are beside it
        with pytest.raises(PolicyError, match="for all activations or for none"):
            space.policy("w4a16", activations={"x": 8})
        with pytest.raises(PolicyError, match=r"in 2\.\.8 for the weights entry 'a'"):
            Policy(weights={"a": 16}, activations={"x": 16})
        with pytest.raises(PolicyError, match="no activations entry for 'y'"):
            space.validate(Policy(weights=policy.weights, activations={"x": 16}))
        for name in ("w16a16", "w4a9", "w4a15"):
            with pytest.raises(PolicyError, match=r"in 2\.\.8"):
                space.named(name)


@pytest.fixture(scope="module")
def artifact() -> Any:
    return read_artifact(SHIPPED)


class TestTargets:
    def test_say_whether_they_have_them(self, artifact: Any) -> None:
        policy, missing = artifact.space.named("w8a16"), []
        for name in list_targets():
            found = check_policy(artifact.workload, policy, load_target(name))
            if found:
                missing.append(name)
                refused = [one for one in found if "got 16" in one.message]
                assert refused[0].constraint == "constraint_activation_bits"
        having = {"cortex_m4_cmsis_nn", "ethos_u55_128", "ethos_u55_256", "host_litert"}
        having |= {"ethos_u65_256", "ethos_u85_256"}
        assert set(list_targets()) - set(missing) == having

    def test_price_them(self, artifact: Any) -> None:
        """Vela 5.2.0 estimates 279,052 and 159,108 cycles, of w4a8 187,052."""
        figures = {"ethos_u55_128": 279_052, "ethos_u55_256": 159_108}
        for name, cycles in figures.items():
            model = CostModel(artifact.workload, load_target(name))
            narrow, wide = (
                model.estimate(artifact.space.named(one)) for one in ("w4a8", "w4a16")
            )
            assert wide.cycles == pytest.approx(cycles, rel=0.05)
            assert wide.cycles > 1.25 * narrow.cycles
            assert wide.peak_activation_bytes == 2 * narrow.peak_activation_bytes
            assert wide.mean_activation_bits == 16
            totals = model.totals(artifact.space.named("w4a16"))
            assert totals["cycles"] == wide.cycles
            assert totals["peak_activation_bytes"] == wide.peak_activation_bytes

    def test_keys_of_widths_differ(self, artifact: Any) -> None:
        widths = LayerWidths(artifact.workload)
        names = artifact.space.activations
        every = [dict.fromkeys(names, bits) for bits in (4, 8, 16)]
        weights = artifact.space.named("w4a16").weights
        keys = [
            widths.keys(widths.of(Policy(weights=weights, activations=one)))
            for one in every
        ]
        assert all(len(set(of_layer)) == 3 for of_layer in zip(*keys, strict=True))

    def test_files_price_an_array_that_takes_them(self, tmp_path: Path) -> None:
        folder = ROOT / "matar_tf/targets/data"
        text = (folder / "ethos_u55_128.toml").read_text("utf-8")
        path = tmp_path / "mine.toml"
        path.write_text(text.replace("wide_scale = 1.6\n", ""))
        with pytest.raises(TargetError, match=r"expected compute\.wide_scale"):
            load_target(path)
        path.write_text(text.replace("[8, 16]", "[8, 12]"))
        with pytest.raises(TargetError, match=r"in 2\.\.8, or 16, got 12"):
            load_target(path)


def test_a_table_has_no_such_kernel_and_its_layer_is_named() -> None:
    ids, made = np.zeros((1, 6), np.int32), np.zeros((1, 6, 4), np.float32)
    model = float_graph("GATHER", ids, [made[0, :1], None], [made])
    table = add_tensor(model, (50, 4), values=np.zeros((50, 4), np.int8))
    found = add_tensor(model, made.shape)
    model.subgraphs[0].operators = []
    add_operator(model, "GATHER", [table, 0], found, options_of("GatherOptions"))
    add_operator(model, "DEQUANTIZE", [found], 2)
    template = Template(
        content=check_model(write_model(model)),
        tensors={found: "words"},
        kernels={},
        clamps={},
        before_clamps=(),
        islands={"words": (0, 1)},
    )
    with pytest.raises(ExportError, match="the table of 'words'"):
        widen(model, template)
