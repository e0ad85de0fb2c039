"""Operators in float: what interpreters make of those that pass, and which do not."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from fixtures.graphs import (
    TYPES,
    both,
    check_refusal,
    float_graph,
    graph_of,
    options_of,
)

from matar_tf.operators import OPERATORS
from matar_tf.tflite._graph_rules import check_model, examine, find_fault
from matar_tf.tflite._operator_rules import RULES
from matar_tf.tflite._schema import (
    CheckedModel,
    OneSampleModel,
    parse_model,
    quantization,
    schema,
    set_buffer,
    write_model,
)
from matar_tf.tflite.runtime import Runner, make_interpreter

VALID = schema.Padding.VALID
GRID = quantization([0.5], [0], 0)
_RNG = np.random.default_rng(0)
FLOATS = _RNG.uniform(0.5, 2, (1, 2, 3, 4)).astype(np.float32)
WIDE = _RNG.uniform(0.5, 2, (1, 2, 3, 4, 5)).astype(np.float32)
INTEGERS = _RNG.integers(1, 9, (1, 2, 3, 4)).astype(np.int32)
TRUTH = FLOATS > 1


def some(*shape):
    return _RNG.uniform(0.5, 2, shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int32)


def scalar(value, kind=np.int32):
    return np.array(value, kind)


class Case:
    """An operator with what it should make of the input, as NumPy has it."""

    def __init__(self, name, sample, operands, made, options=None, **values):
        made = made if isinstance(made, list) else [made]
        self.sample = np.ascontiguousarray(sample)
        self.made = [np.ascontiguousarray(one) for one in made]
        options = None if options is None else options_of(options, **values)
        self._parts = name, self.sample, operands, self.made, options
        self.name = name

    def model(self):
        *parts, options = self._parts
        return float_graph(*parts, copy.copy(options))


def of_each(name, function, sample=FLOATS, options=None):
    return Case(name, sample, [None], function(sample).astype(sample.dtype), options)


def of_pair(name, function, a, b, options=None):
    made = np.asarray(function(a, b))
    made = made.astype(np.bool_ if made.dtype == np.bool_ else a.dtype)
    return Case(name, a, [None, b], made, options)


def reduced(name, function, sample=FLOATS):
    made = function(sample, axis=(1, 3), keepdims=True).astype(sample.dtype)
    options = {"options": "ReducerOptions", "keepDims": True}
    return Case(name, sample, [None, ints(1, 3)], made, **options)


def softened(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def volume(x, kernel):
    size = [x.shape[axis + 1] - kernel.shape[axis] + 1 for axis in range(3)]
    made = np.zeros((1, *size, kernel.shape[4]), np.float32)
    for places in itertools.product(*map(range, kernel.shape[:3])):
        part = tuple(
            slice(at, at + count) for at, count in zip(places, size, strict=True)
        )
        made += x[(slice(None), *part)] @ kernel[places]
    return made


VOLUME, VOLUME_KERNEL = some(1, 4, 5, 6, 2), some(2, 3, 3, 2, 4)
_STEPS = {f"{what}{axis}": 1 for what in ("stride", "dilation") for axis in "DHW"}
VOLUME_OPTIONS = {key if "s" in key else f"{key}Factor": 1 for key in _STEPS}
SLICED = ints(0, 1, 0, 2), ints(-1, 1, 2, -1)
ORDER = np.argsort(-FLOATS, -1)[..., :2]

EACH = {
    "ABS": np.abs,
    "CEIL": np.ceil,
    "COS": np.cos,
    "FLOOR": np.floor,
    "HARD_SWISH": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "LOG": lambda x: np.log(np.abs(x)),
    "NEG": np.negative,
    "RELU_0_TO_1": lambda x: np.clip(x, 0, 1),
    "RELU_N1_TO_1": lambda x: np.clip(x, -1, 1),
    "ROUND": np.rint,
    "RSQRT": lambda x: 1 / np.sqrt(x),
    "SIGN": np.sign,
    "SIN": np.sin,
    "SQRT": np.sqrt,
    "SQUARE": np.square,
    "TANH": np.tanh,
    "LOGISTIC": lambda x: 1 / (1 + np.exp(-x)),
}
PAIRS = {
    "ADD": (np.add, "AddOptions"),
    "DIV": (np.divide, "DivOptions"),
    "EQUAL": (np.equal, None),
    "FLOOR_DIV": (lambda a, b: np.floor(a / b), None),
    "FLOOR_MOD": (np.mod, None),
    "GREATER": (np.greater, None),
    "GREATER_EQUAL": (np.greater_equal, None),
    "LESS": (np.less, None),
    "LESS_EQUAL": (np.less_equal, None),
    "MAXIMUM": (np.maximum, None),
    "MUL": (np.multiply, "MulOptions"),
    "NOT_EQUAL": (np.not_equal, None),
    "POW": (np.power, None),
    "PRELU": (lambda a, b: np.where(a > 0, a, a * b), None),
    "SQUARED_DIFFERENCE": (lambda a, b: (a - b) ** 2, None),
    "SUB": (np.subtract, "SubOptions"),
}
MOVED = {"f": FLOATS, "i": INTEGERS, "t": TRUTH}

CASES = {
    **{name: of_each(name, one) for name, one in EACH.items()},
    **{
        f"{name}_{len(shape)}": of_pair(name, one[0], FLOATS, some(*shape), one[1])
        for name, one in PAIRS.items()
        for shape in ((1, 2, 1, 4), (3, 1), ())
    },
    **{
        f"{name}_wide": of_pair(name, one[0], WIDE, some(1, 1, 3, 1, 5), one[1])
        for name, one in PAIRS.items()
        if name in ("ADD", "DIV", "MAXIMUM", "MUL", "SUB")
    },
    **{
        f"{name}_integers": of_pair(name, one[0], INTEGERS, ints(2), one[1])
        for name, one in PAIRS.items()
        if name in ("ADD", "EQUAL", "MAXIMUM", "MUL", "SUB")
    },
    **{
        f"{name}_{kind}": case
        for kind, x in MOVED.items()
        for name, case in {
            "transpose": Case(
                "TRANSPOSE", x, [None, ints(0, 3, 1, 2)], x.transpose(0, 3, 1, 2)
            ),
            "slice": Case("SLICE", x, [None, *SLICED], x[:, 1:2, 0:2, 2:]),
            "tile": Case("TILE", x, [None, ints(1, 2, 1, 3)], np.tile(x, (1, 2, 1, 3))),
            "reverse": Case("REVERSE_V2", x, [None, ints(3)], x[..., ::-1]),
            "join": Case(
                "CONCATENATION",
                x,
                [None, None],
                np.concatenate([x, x], 3),
                "ConcatenationOptions",
                axis=3,
            ),
            "unpack": Case(
                "UNPACK",
                x,
                [None],
                [*np.moveaxis(x, 2, 0)],
                "UnpackOptions",
                num=3,
                axis=2,
            ),
            "gather": Case(
                "GATHER",
                x,
                [None, ints(2, 0)],
                x[:, :, [2, 0]],
                "GatherOptions",
                axis=2,
            ),
            "stretch": Case(
                "BROADCAST_TO",
                x[:, :1],
                [None, ints(1, 5, 3, 4)],
                np.tile(x[:, :1], (1, 5, 1, 1)),
            ),
            "reshape": Case("RESHAPE", x, [None, ints(-1, 6, 4)], x.reshape(1, 6, 4)),
            "choose": Case(
                "SELECT_V2",
                x,
                [np.array([True, False, True, True]), None, np.zeros((), x.dtype)],
                np.where([True, False, True, True], x, np.zeros((), x.dtype)),
                "SelectV2Options",
            ),
            "choose_alike": Case(
                "SELECT",
                x,
                [TRUTH, None, np.zeros(x.shape, x.dtype)],
                np.where(TRUTH, x, np.zeros((), x.dtype)),
                "SelectOptions",
            ),
            "cast": Case("CAST", x, [None], x.astype(np.float32)),
            "cast_integers": Case("CAST", x, [None], x.astype(np.int32)),
            "cast_truth": Case("CAST", x, [None], x.astype(np.bool_)),
            "cast_long": Case("CAST", x, [None], x.astype(np.int64)),
        }.items()
    },
    **{
        name: reduced(name, one)
        for name, one in {
            "MEAN": np.mean,
            "REDUCE_MAX": np.max,
            "REDUCE_MIN": np.min,
            "REDUCE_PROD": np.prod,
            "SUM": np.sum,
        }.items()
    },
    "any": reduced("REDUCE_ANY", np.any, TRUTH),
    "all": reduced("REDUCE_ALL", np.all, TRUTH),
    "not": of_each("LOGICAL_NOT", np.logical_not, TRUTH),
    "and": of_pair("LOGICAL_AND", np.logical_and, TRUTH, TRUTH[:, :1]),
    "or": of_pair("LOGICAL_OR", np.logical_or, TRUTH, TRUTH[:, :1]),
    "softmax": Case(
        "SOFTMAX", FLOATS, [None], softened(FLOATS), "SoftmaxOptions", beta=1.0
    ),
    "log_softmax": Case(
        "LOG_SOFTMAX", FLOATS, [None], np.log(softened(FLOATS)), "LogSoftmaxOptions"
    ),
    "norm": Case(
        "L2_NORMALIZATION",
        FLOATS,
        [None],
        FLOATS / np.sqrt((FLOATS**2).sum(-1, keepdims=True)),
        "L2NormOptions",
    ),
    **{
        f"matmul_{number}": Case(
            "BATCH_MATMUL",
            a,
            [None, b],
            np.matmul(
                a.swapaxes(-1, -2) if flip[0] else a,
                b.swapaxes(-1, -2) if flip[1] else b,
            ),
            "BatchMatMulOptions",
            adjX=flip[0],
            adjY=flip[1],
        )
        for number, (a, b, flip) in enumerate(
            [
                (some(1, 3, 4), some(1, 4, 5), (False, False)),
                (some(1, 4, 3), some(1, 5, 4), (True, True)),
                (some(1, 2, 2, 3, 4), some(1, 2, 1, 4, 5), (False, False)),
                (some(1, 2, 3, 4), some(4, 5), (False, False)),
                (some(1, 4), some(4, 5), (False, False)),
            ]
        )
    },
    "split": Case(
        "SPLIT",
        FLOATS,
        [scalar(3), None],
        np.split(FLOATS, 2, 3),
        "SplitOptions",
        numSplits=2,
    ),
    "split_by_sizes": Case(
        "SPLIT_V",
        FLOATS,
        [None, ints(1, -1), scalar(-1)],
        np.split(FLOATS, [1], 3),
        "SplitVOptions",
        numSplits=2,
    ),
    "pack": Case(
        "PACK",
        FLOATS,
        [None, None],
        np.stack([FLOATS, FLOATS], 2),
        "PackOptions",
        valuesCount=2,
        axis=2,
    ),
    "table": Case(
        "GATHER", ints(2, 0)[None], [some(3, 4), None], some(1, 2, 4), "GatherOptions"
    ),
    "one_hot": Case(
        "ONE_HOT",
        ints(0, 5, 2)[None],
        [None, scalar(4), scalar(1, np.float32), scalar(0, np.float32)],
        np.eye(6, dtype=np.float32)[ints(0, 5, 2)][None, :, :4],
        "OneHotOptions",
        axis=-1,
    ),
    "add_up": Case(
        "CUMSUM", FLOATS, [None, scalar(2)], FLOATS.cumsum(2), "CumsumOptions"
    ),
    "largest": Case(
        "TOPK_V2",
        FLOATS,
        [None, scalar(2)],
        [np.take_along_axis(FLOATS, ORDER, -1), ORDER.astype(np.int32)],
        "TopKV2Options",
    ),
    "place": Case(
        "ARG_MAX",
        FLOATS,
        [None, scalar(2)],
        FLOATS.argmax(2),
        "ArgMaxOptions",
        outputType=TYPES.INT64,
    ),
    "place_of_least": Case(
        "ARG_MIN",
        FLOATS,
        [None, scalar(2)],
        FLOATS.argmin(2).astype(np.int32),
        "ArgMinOptions",
        outputType=TYPES.INT32,
    ),
    "pad": Case(
        "PADV2",
        FLOATS,
        [None, ints([0, 0], [1, 0], [0, 2], [1, 1]), scalar(7, np.float32)],
        np.pad(FLOATS, [(0, 0), (1, 0), (0, 2), (1, 1)], constant_values=7),
        "PadV2Options",
    ),
    "mirror": Case(
        "MIRROR_PAD",
        FLOATS,
        [None, ints([0, 0], [1, 0], [0, 2], [1, 3])],
        np.pad(FLOATS, [(0, 0), (1, 0), (0, 2), (1, 3)], "reflect"),
        "MirrorPadOptions",
    ),
    "volume": Case(
        "CONV_3D",
        VOLUME,
        [None, VOLUME_KERNEL],
        volume(VOLUME, VOLUME_KERNEL),
        "Conv3DOptions",
        padding=VALID,
        **VOLUME_OPTIONS,
    ),
    # One value, spread by a kernel: the kernel itself.
    "transposed_volume": Case(
        "CONV_3D_TRANSPOSE",
        np.ones((1, 1, 1, 1, 1), np.float32),
        [ints(1, 2, 3, 3, 8), VOLUME_KERNEL.reshape(2, 3, 3, 8, 1), None],
        VOLUME_KERNEL.reshape(1, 2, 3, 3, 8),
        "Conv3DOptions",
        padding=VALID,
        **VOLUME_OPTIONS,
    ),
}
CASES["table"].made[0][...] = CASES["table"]._parts[2][0][[2, 0]]


def run(model, samples):
    interpreter = make_interpreter(write_model(model), "litert", 1)
    assert not hasattr(interpreter, "reason")  # it runs in this process
    source = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(source, samples.shape)
    interpreter.allocate_tensors()
    is_truth = samples.dtype == np.bool_
    interpreter.set_tensor(source, samples.astype(np.int32) if is_truth else samples)
    interpreter.invoke()
    outputs = map(int, model.subgraphs[0].outputs)
    return [interpreter.get_tensor(index) for index in outputs]


# Those that are of one sample, as they stand here: a shape or a bound says so.
MEETING = {
    *(
        f"{name}_{kind}"
        for name in ("choose_alike", "slice", "stretch")
        for kind in MOVED
    ),
    "transposed_volume",
}


class TestSound:
    @pytest.mark.parametrize("name", CASES)
    def test_an_interpreter_makes_what_numpy_makes(self, name):
        case = CASES[name]
        model = case.model()
        assert find_fault(model) is None
        for found, made in zip(run(model, case.sample), case.made, strict=True):
            assert (found.shape, found.dtype) == (made.shape, made.dtype)
            np.testing.assert_allclose(found, made, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("name", CASES)
    def test_samples_that_stay_apart_come_out_alike_together(self, name):
        """The rules say of each graph whether they do; here is what a batch makes."""
        case = CASES[name]
        model = case.model()
        others = [np.roll(case.sample, count, -1) for count in range(3)]
        if examine(model)[1]:
            assert name in MEETING
            return
        assert name not in MEETING
        alone = [run(model, one) for one in others]
        together = run(model, np.concatenate(others))
        for found, *parts in zip(together, *alone, strict=True):
            np.testing.assert_array_equal(found, np.concatenate(parts))

    def test_every_operator_that_is_known_in_float_alone_has_a_case(self):
        floats = {name for name, row in OPERATORS.items() if row.is_float}
        assert floats <= set(RULES)
        assert floats == floats & {case.name for case in CASES.values()}

    def test_a_file_says_whether_it_is_run_one_sample_at_a_time(self):
        apart = check_model(write_model(CASES["SUM"].model()))
        assert type(apart) is CheckedModel
        whole = CASES["stretch_f"]
        content = check_model(write_model(whole.model()))
        assert isinstance(content, OneSampleModel)
        samples = np.concatenate([whole.sample, whole.sample + 1])
        outputs = Runner(content).predict(samples)
        np.testing.assert_array_equal(
            outputs, np.tile(samples, (1, 5, 1, 1)).reshape(outputs.shape)
        )
        assert find_fault(parse_model(bytes(content))) is None


def option(**values):
    def change(model):
        options = model.subgraphs[0].operators[-1].builtinOptions
        for key, value in values.items():
            assert hasattr(options, key)
            setattr(options, key, value)

    return change


def constant(number, *values):
    """Changes the values of a constant, and its size with their number."""

    def change(model):
        tensor = model.subgraphs[0].tensors[number]
        stored = np.array(values, np.int32)
        if stored.size != int(np.prod(tensor.shape)):
            tensor.shape = np.array(stored.shape, np.int32)
        set_buffer(model, tensor, stored)

    return change


def tensor(number, **values):
    def change(model):
        for key, value in values.items():
            setattr(model.subgraphs[0].tensors[number], key, value)

    return change


def shaped(number, *sizes):
    return tensor(number, shape=np.array(sizes, np.int32))


def without_output(model):
    graph = model.subgraphs[0]
    graph.operators[-1].outputs = graph.operators[-1].outputs[:-1]
    graph.outputs = graph.outputs[:-1]


def without_options(model):
    operator = model.subgraphs[0].operators[-1]
    operator.builtinOptions, operator.builtinOptionsType = None, 0


UNSOUND = [
    # Types.
    ("SIN", tensor(1, type=TYPES.INT32), "one type, and results that follow"),
    ("SIN", tensor(0, type=TYPES.INT32), "data of types FLOAT32"),
    ("ADD_4", tensor(1, type=TYPES.INT32), "operands of one type"),
    ("ADD_4", tensor(2, type=TYPES.INT64), "8 bytes|results that follow"),
    ("EQUAL_4", tensor(2, type=TYPES.FLOAT32), "results that follow"),
    ("and", tensor(2, type=TYPES.INT32), "operands of one|bytes of tensor"),
    ("table", tensor(0, type=TYPES.FLOAT32), "types INT32 in the .* got FLOAT32"),
    ("one_hot", tensor(0, type=TYPES.FLOAT32), "types INT32 in the .* got FLOAT32"),
    ("choose_f", tensor(1, type=TYPES.INT8), "one step|types BOOL"),
    ("largest", tensor(3, type=TYPES.INT64), "results that follow"),
    ("place", tensor(2, type=TYPES.INT32), "results of the type of its option"),
    ("place", tensor(2, type=TYPES.FLOAT32), "results that follow"),
    ("cast_f", tensor(1, type=TYPES.FLOAT16), "a known type"),
    ("SIN", tensor(1, type=TYPES.INT8, quantization=GRID), "operands in float"),
    ("volume", tensor(1, type=TYPES.INT8), "bytes of tensor 1"),
    ("volume", tensor(2, type=TYPES.INT32), "a kernel of the type of its input"),
    *(
        (name, without_options, "options among")
        for name in ("pack", "unpack_f", "split", "split_by_sizes", "one_hot", "place")
    ),
    *(
        (name, without_options, "options among")
        for name in ("mirror", "SUM", "any", "matmul_0", "volume", "table")
    ),
    # Shapes that operands make.
    ("ADD_4", shaped(2, 1, 2, 3, 5), r"the shape \(1, 2, 3, 4\)"),
    ("ADD_2", shaped(1, 1, 3), "operands that fit"),
    (
        "POW_4",
        both(shaped(0, 1, 1, 2, 3, 4), shaped(2, 1, 1, 2, 3, 4)),
        "at most 4 axes",
    ),
    ("EQUAL_4", both(shaped(0, 1, 1, 2, 3, 4), shaped(2, 1, 1, 2, 3, 4)), "at most 4"),
    ("choose_f", both(shaped(0, 1, 1, 2, 3, 4), shaped(3, 1, 1, 2, 3, 4)), "at most 4"),
    (
        "MUL_integers",
        both(shaped(0, 1, 1, 2, 3, 4), shaped(2, 1, 1, 2, 3, 4)),
        "at most 4 axes",
    ),
    ("PRELU_4", both(shaped(0, 1, 1, 3, 4), shaped(2, 1, 2, 3, 4)), "slopes that fit"),
    ("choose_alike_f", shaped(1, 1, 3, 2, 4), "a choice for each element"),
    ("matmul_0", shaped(1, 1, 5, 4), "matrices of 4 rows"),
    ("matmul_0", option(adjX=True), "matrices of 3 rows"),
    ("matmul_0", shaped(2, 1, 5, 3), r"the shape \(1, 3, 5\)"),
    ("matmul_2", both(shaped(1, 1, 3, 1, 4, 5), lambda m: None), "stacks|bytes"),
    ("matmul_4", both(shaped(0, 1), shaped(2, 5)), "matrices"),
    ("norm", both(shaped(0, 1, 1, 2, 3, 4), shaped(1, 1, 1, 2, 3, 4)), "1 to 4 axes"),
    ("DIV_4", option(fusedActivationFunction=1), "no fused activation"),
    ("ADD_4", option(fusedActivationFunction=4), "a fused activation function that"),
    ("softmax", option(beta=np.nan), "a beta"),
    # Axes and bounds.
    ("SUM", constant(1, 1, 4), "different axes"),
    ("SUM", constant(1, 1, 1), "different axes"),
    ("SUM", option(keepDims=False), "the shape"),
    ("slice_f", constant(1, 0, 2, 0, 2), r"a slice within 0\.\.2"),
    ("slice_f", constant(1, 0, -1, 0, 2), r"a slice within 0\.\.2"),
    ("slice_f", constant(2, -1, 2, 2, -1), r"a slice within 0\.\.2"),
    ("slice_f", constant(2, -1, 0, 2, -1), r"a slice within 0\.\.2"),
    ("slice_f", constant(2, -1, 1, 2, 2**31 - 1), r"a slice within 0\.\.4"),
    ("slice_f", constant(2, -1, 1, 2), "4 bounds"),
    ("gather_f", option(axis=4), "an axis of 4"),
    ("gather_f", option(axis=-5), "an axis of 4"),
    ("gather_f", option(batchDims=1), "one table for all samples"),
    ("gather_f", option(axis=1), "the shape"),
    ("unpack_f", option(axis=3), "4 outputs"),
    ("unpack_f", option(num=2), "3 outputs"),
    ("unpack_f", option(axis=5), "different axes"),
    ("unpack_f", without_output, "3 outputs"),
    ("split", constant(1, 4), "different axes"),
    ("split", constant(1, 2), "equal parts of 3"),
    ("split", without_output, "equal parts of 4"),
    ("split", option(numSplits=4), "equal parts of 4"),
    ("split_by_sizes", constant(1, 1, 4), "parts of 4"),
    ("split_by_sizes", constant(1, -1, -1), "parts of 4"),
    ("split_by_sizes", constant(1, 0, -1), "parts of 4"),
    ("split_by_sizes", constant(1, 5, -1), "parts of 4"),
    ("split_by_sizes", constant(1, 1, 1, -1), "parts of 4"),
    ("split_by_sizes", constant(2, 4), "different axes"),
    ("pack", option(valuesCount=3), "2 values"),
    ("pack", option(axis=5), "different axes"),
    ("one_hot", constant(1, 0), "a depth of 1 to"),
    ("one_hot", constant(1, -4), "a depth of 1 to"),
    ("one_hot", constant(1, 2**31 - 1), "a depth of 1 to"),
    ("one_hot", option(axis=3), "an axis of 0 to 2"),
    ("one_hot", option(axis=-2), "an axis of 0 to 2"),
    ("add_up", constant(1, 4), "different axes"),
    ("reverse_f", constant(1, 2, 3), "one axis"),
    ("reverse_f", constant(1, -5), "different axes"),
    ("place", constant(1, 4), "different axes"),
    ("largest", constant(1, 5), "some of the last axis"),
    ("largest", constant(1, 0), "some of the last axis"),
    ("stretch_f", constant(1, 1, 5, 3, 5), "is stretched to"),
    ("stretch_f", constant(1, 1, 0, 3, 4), "is stretched to"),
    ("stretch_f", constant(1, 3, 4), "is stretched to"),
    ("stretch_f", constant(1, 1, 2**30, 3, 4), "the shape"),
    ("tile_f", constant(1, 1, 2, 0, 3), "copies of each axis"),
    ("pad", constant(1, 0, 0, 1, -1, 0, 2, 1, 1), "paddings of"),
    ("pad", constant(1, 0, 0, 1, 2**31 - 1, 0, 2, 1, 1), "paddings of"),
    ("mirror", constant(1, 0, 0, 1, 0, 0, 2, 1, 4), "that there are values for"),
    ("mirror", constant(1, 0, 0, 1, 0, 0, 3, 1, 3), "that there are values for"),
    ("mirror", option(mode=2), "a way to mirror"),
    ("reshape_f", constant(1, -1, 7, 4), "a shape of 24 elements"),
    ("reshape_f", constant(1, -1, -1, 4), "a shape of 24 elements"),
    ("transpose_f", constant(1, 0, 1, 2, 2), "an order of axes"),
    ("transpose_f", constant(1, 0, 1, 2, 4), "an order of axes"),
    # Volumes.
    ("volume", option(strideD=0), "strides of 1 to"),
    ("volume", option(dilationHFactor=2), "windows without holes"),
    ("volume", option(padding=2), "a padding that is known"),
    ("volume", option(fusedActivationFunction=4), "a fused activation"),
    ("volume", shaped(1, 3, 3, 2, 4, 2), "a kernel for 2 input channels"),
    ("volume", shaped(1, 6, 3, 2, 4), "rank 5"),
    ("volume", both(shaped(0, 1, 1, 20, 6, 2), shaped(2, 1, 3, 3, 4, 4)), "within 1"),
    ("transposed_volume", constant(1, 1, 2, 3, 3, 7), "a volume of 8 channels"),
    ("transposed_volume", constant(1, 1, 3, 3, 3, 8), "that windows of 2 make of 1"),
    ("transposed_volume", constant(1, 1, -2, 3, 3, 8), "that windows of 2 make of 1"),
    ("transposed_volume", option(strideW=2, padding=3), "a padding that is known"),
]


class TestUnsound:
    @pytest.mark.parametrize(
        ("name", "change", "message"),
        UNSOUND,
        ids=[f"{name}-{i}" for i, (name, *_) in enumerate(UNSOUND)],
    )
    def test_one_changed_field_is_refused(self, name, change, message):
        model = CASES[name].model()
        change(model)
        check_refusal(model, message)

    def test_windows_of_volumes_that_lie_side_by_side_are_counted(self):
        # 2**29 bytes are 2**27 floats: 64 places of kernels of 2**21 values, not 65.
        def model(places):
            kernel = np.broadcast_to(np.float32(0), (1, 1, 1, 1 << 21, 1))
            wide = np.broadcast_to(np.float32(0), (1, 1, 1, places, 1 << 21))
            made = np.broadcast_to(np.float32(0), (1, 1, 1, places, 1))
            options = options_of("Conv3DOptions", padding=VALID, **VOLUME_OPTIONS)
            return float_graph("CONV_3D", wide, [None, kernel], [made], options)

        assert find_fault(model(64)) is None
        assert "at most 536870912 bytes of windows" in find_fault(model(65))

    def test_products_of_matrices_are_counted(self):
        case = CASES["matmul_0"]  # 3 x 4 with 4 x 5
        assert find_fault(case.model(), max_products=60) is None
        assert "products" in find_fault(case.model(), max_products=59)

    def test_an_index_beyond_a_table_is_an_error(self):
        case = CASES["table"]
        np.testing.assert_array_equal(run(case.model(), case.sample)[0], case.made[0])
        for index in (3, -1, 2**31 - 1):
            with pytest.raises(RuntimeError, match="gather index out of bounds"):
                run(case.model(), ints(index, 0)[None])


MEET = [
    ("transpose_f", both(constant(1, 1, 0, 2, 3), shaped(2, 2, 1, 3, 4))),
    ("SUM", both(constant(1, 0, 1), shaped(2, 1, 1, 3, 4))),
    ("SUM", both(constant(1, 0, 1), option(keepDims=False), shaped(2, 3, 4))),
    ("add_up", constant(1, 0)),
    ("reverse_f", constant(1, 0)),
    ("reshape_f", constant(1, 1, 6, 4)),
    ("reshape_f", both(constant(1, 6, 1, 4), shaped(2, 6, 1, 4))),
    ("tile_f", both(constant(1, 2, 1, 1, 1), shaped(2, 2, 2, 3, 4))),
    ("softmax", both(shaped(0, 1), shaped(1, 1))),
    ("norm", both(shaped(0, 1), shaped(1, 1))),
    ("largest", both(shaped(0, 1), constant(1, 1), shaped(2, 1), shaped(3, 1))),
    ("join_f", both(option(axis=0), shaped(1, 2, 2, 3, 4))),
    ("pack", both(option(axis=0), shaped(1, 2, 1, 2, 3, 4))),
    ("one_hot", both(option(axis=0), shaped(4, 4, 1, 3))),
    ("matmul_0", both(shaped(0, 1, 4), shaped(2, 1, 1, 5))),
    ("matmul_4", both(option(adjX=True), shaped(1, 1, 20), shaped(2, 4, 20))),
    ("ADD_4", shaped(0, 1, 3, 4)),
]


class TestMeeting:
    @pytest.mark.parametrize(
        ("name", "change"),
        MEET,
        ids=[f"{name}-{i}" for i, (name, _) in enumerate(MEET)],
    )
    def test_samples_meet_once_a_field_is_changed(self, name, change):
        model = CASES[name].model()
        assert examine(model) == (None, False)
        change(model)
        assert examine(model) == (None, True)

    def test_samples_never_meet_in_integers(self):
        """What the rules of integers refuse is tested with them."""
        model = graph_of("TRANSPOSE", (1, 4, 6), (4, 1, 6), None, [1, 0, 2])
        assert "that of samples first" in find_fault(model)
