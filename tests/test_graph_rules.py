"""Which files native code may be given: every check, on both sides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fixtures.digits import digits_artifact
from fixtures.graphs import (
    TYPES,
    add_operator,
    add_tensor,
    both,
    check_refusal,
    graph_of,
    multiplication,
    options_of,
)
from fixtures.paths import ROOT, SHIPPED
from fixtures.samples import net_artifact

from matar_tf.artifact import read_artifact
from matar_tf.errors import ExportError, MatarError
from matar_tf.operators import OPERATORS
from matar_tf.tflite._graph_rules import check_model, find_fault
from matar_tf.tflite._operator_rules import RULES
from matar_tf.tflite._schema import (
    CheckedModel,
    parse_model,
    quantization,
    schema,
    set_buffer,
    write_model,
)
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.profiles import PROFILES
from matar_tf.tflite.runtime import make_interpreter
from matar_tf.tflite.simulator import SIMULATED, simulate

IMAGE = (1, 4, 6, 2)
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID


def conv(stride=1, padding=SAME, result=(1, 4, 6, 3), kernel=(3, 3, 3, 2)):
    options = options_of(
        "Conv2DOptions",
        strideH=stride,
        strideW=stride,
        dilationHFactor=1,
        dilationWFactor=1,
        padding=padding,
    )
    return multiplication("CONV_2D", IMAGE, kernel, result, options)


def depthwise():
    options = options_of(
        "DepthwiseConv2DOptions",
        strideH=1,
        strideW=2,
        dilationHFactor=1,
        dilationWFactor=1,
        depthMultiplier=2,
        padding=SAME,
    )
    shapes = IMAGE, (1, 3, 3, 4), (1, 4, 3, 4)
    return multiplication("DEPTHWISE_CONV_2D", *shapes, options, axis=3)


def transposed(padding=SAME, size=(8, 6), kernel=(3, 3, 3, 2), strides=(2, 1)):
    """Inputs are the shape of the output, kernel, image, bias: tensors 5, 3, 1, 4."""
    options = options_of(
        "TransposeConvOptions", strideH=strides[0], strideW=strides[1], padding=padding
    )
    result = (1, *size, kernel[0])
    model = multiplication("TRANSPOSE_CONV", IMAGE, kernel, result, options)
    stored = np.array(result, np.int32)
    index = add_tensor(model, (4,), TYPES.INT32, scale=(), values=stored)
    model.subgraphs[0].operators[1].inputs = [index, 3, 1, 4]
    return model


def without_bias(model):
    model.subgraphs[0].operators[1].inputs = [5, 3, 1]
    return model


def dense(keeps=False):
    options = options_of("FullyConnectedOptions", keepNumDims=keeps)
    source, result = ((1, 4, 6), (1, 4, 3)) if keeps else ((1, 2, 3), (1, 3))
    return multiplication("FULLY_CONNECTED", source, (3, 6), result, options)


def pool(name, **values):
    chosen = {
        **{"strideH": 2, "strideW": 2, "filterHeight": 3, "filterWidth": 2},
        "padding": VALID,
        **values,
    }
    options = options_of("Pool2DOptions", **chosen)
    return graph_of(name, IMAGE, (1, 1, 3, 2), options)


def resized(name, height=8, width=9, **values):
    options = options_of(f"{name}Options", **{"halfPixelCenters": True, **values})
    names = {
        "ResizeBilinear": "RESIZE_BILINEAR",
        "ResizeNearestNeighbor": "RESIZE_NEAREST_NEIGHBOR",
    }
    result = (1, height, width, 2)
    return graph_of(names[name], IMAGE, result, options, [height, width])


def sliced():
    """Rows 1 and 2 of 4, column 4 of 6 alone, each second channel."""
    options = options_of(
        "StridedSliceOptions", beginMask=9, endMask=9, shrinkAxisMask=4
    )
    bounds = [7, 1, -2, 0], [7, -1, -1, 0], [1, 1, 1, 2]
    return graph_of("STRIDED_SLICE", IMAGE, (1, 2, 1), options, *bounds)


def gathered(rows=50, places=(1, 6)):
    """Rows of an int8 table, tensor 3, by the integers of the input."""
    model = graph_of("GATHER", places, (*places, 2), options_of("GatherOptions"))
    stored = np.arange(rows * 2).astype(np.int8).reshape(rows, 2)
    table = add_tensor(model, stored.shape, values=stored)
    graph = model.subgraphs[0]
    graph.tensors[0].type = TYPES.INT32
    graph.operators = graph.operators[1:]
    graph.operators[0].inputs = [table, 0]
    return model


# One graph for each operator; the shapes of the results are worked out by hand.
SOUND = {
    "conv": conv,
    "conv_valid": lambda: conv(2, VALID, (1, 1, 2, 3)),
    "conv_groups": lambda: conv(kernel=(2, 1, 1, 1), result=(1, 4, 6, 2)),
    "depthwise": depthwise,
    "transposed": transposed,
    "transposed_valid": lambda: transposed(VALID, (9, 18), strides=(2, 3)),
    "transposed_apart": lambda: transposed(VALID, (12, 12), (3, 2, 1, 2), (3, 2)),
    "transposed_odd": lambda: transposed(SAME, (7, 6)),
    "transposed_bare": lambda: without_bias(transposed()),
    "dense": dense,
    "dense_keeps": lambda: dense(keeps=True),
    "dense_rows": lambda: multiplication(
        "FULLY_CONNECTED",
        (1, 4, 6),
        (3, 6),
        (4, 3),
        options_of("FullyConnectedOptions"),
    ),
    "add": lambda: graph_of(
        "ADD", IMAGE, IMAGE, options_of("AddOptions"), num_inputs=2
    ),
    "sub": lambda: graph_of(
        "SUB", IMAGE, IMAGE, options_of("SubOptions"), num_inputs=2
    ),
    "mul": lambda: graph_of(
        "MUL", IMAGE, IMAGE, options_of("MulOptions"), num_inputs=2
    ),
    "maximum": lambda: graph_of("MAXIMUM", IMAGE, IMAGE, num_inputs=2),
    "minimum": lambda: graph_of(
        "MINIMUM", IMAGE, IMAGE, options_of("MaximumMinimumOptions"), num_inputs=2
    ),
    "average": lambda: pool("AVERAGE_POOL_2D"),
    "max": lambda: pool("MAX_POOL_2D"),
    "mean": lambda: graph_of(
        "MEAN", IMAGE, (1, 2), options_of("ReducerOptions"), [1, -2]
    ),
    "mean_keeps": lambda: graph_of(
        "MEAN", IMAGE, (1, 1, 1, 2), options_of("ReducerOptions", keepDims=True), [1, 2]
    ),
    "reduce_max": lambda: graph_of(
        "REDUCE_MAX", IMAGE, (1, 2), options_of("ReducerOptions"), [1, 2]
    ),
    "concat": lambda: graph_of(
        "CONCATENATION",
        IMAGE,
        (1, 4, 6, 6),
        options_of("ConcatenationOptions", axis=-1),
        num_inputs=3,
    ),
    "pad": lambda: graph_of(
        "PAD", IMAGE, (1, 7, 7, 2), None, [[0, 0], [1, 2], [0, 1], [0, 0]]
    ),
    "slice": sliced,
    "transpose": lambda: graph_of("TRANSPOSE", IMAGE, (1, 2, 4, 6), None, [0, 3, 1, 2]),
    "tile": lambda: graph_of("TILE", IMAGE, (1, 12, 6, 4), None, [1, 3, 1, 2]),
    "depth_to_space": lambda: graph_of(
        "DEPTH_TO_SPACE",
        (1, 2, 3, 8),
        IMAGE,
        options_of("DepthToSpaceOptions", blockSize=2),
    ),
    "space_to_depth": lambda: graph_of(
        "SPACE_TO_DEPTH",
        IMAGE,
        (1, 2, 3, 8),
        options_of("SpaceToDepthOptions", blockSize=2),
    ),
    "bilinear": lambda: resized("ResizeBilinear"),
    "nearest": lambda: resized("ResizeNearestNeighbor"),
    "reshape": lambda: graph_of("RESHAPE", IMAGE, (1, 48), None, [-1, 48]),
    "rows": lambda: graph_of("RESHAPE", IMAGE, (8, 6), None, [-1, 6]),
    "expand": lambda: graph_of("EXPAND_DIMS", (1, 4, 2), (1, 1, 4, 2), None, [1]),
    "squeeze": lambda: graph_of(
        "SQUEEZE",
        (1, 1, 4, 2),
        (1, 4, 2),
        options_of("SqueezeOptions", squeezeDims=[1]),
    ),
    "gather": gathered,
    "leaky": lambda: graph_of(
        "LEAKY_RELU", IMAGE, IMAGE, options_of("LeakyReluOptions", alpha=0.25)
    ),
    "softmax": lambda: graph_of(
        "SOFTMAX", (1, 5), (1, 5), options_of("SoftmaxOptions", beta=1.0)
    ),
    "logistic": lambda: graph_of("LOGISTIC", IMAGE, IMAGE),
    "tanh": lambda: graph_of("TANH", IMAGE, IMAGE),
    "elu": lambda: graph_of("ELU", IMAGE, IMAGE),
    "exp": lambda: graph_of("EXP", IMAGE, IMAGE, options_of("ExpOptions")),
    "gelu": lambda: graph_of("GELU", IMAGE, IMAGE, options_of("GeluOptions")),
    "relu": lambda: graph_of("RELU", IMAGE, IMAGE),
    "relu6": lambda: graph_of("RELU6", IMAGE, IMAGE),
    "quantize": lambda: graph_of("QUANTIZE", IMAGE, IMAGE),
}


class TestSound:
    @pytest.mark.parametrize("name", SOUND)
    def test_an_interpreter_makes_the_same_shape_at_any_batch_size(self, name):
        model = SOUND[name]()
        assert find_fault(model) is None
        result = tuple(model.subgraphs[0].tensors[2].shape)
        interpreter = make_interpreter(write_model(model), "litert", 1)
        assert not hasattr(interpreter, "reason")  # it runs in this process
        source, output = interpreter.get_input_details()[0], 2
        for batch in (1, 3):
            shape = (batch, *source["shape"][1:])
            interpreter.resize_tensor_input(source["index"], shape)
            interpreter.allocate_tensors()
            interpreter.set_tensor(source["index"], np.ones(shape, source["dtype"]))
            interpreter.invoke()
            expected = (batch * result[0], *result[1:])
            assert interpreter.get_tensor(output).shape == expected

    def test_every_operator_that_is_simulated_has_a_rule_and_a_graph_here(self):
        known = {name for name in RULES if not OPERATORS[name].is_float}
        assert known == set(SIMULATED)
        used = {
            name
            for name, code in vars(schema.BuiltinOperator).items()
            for make in SOUND.values()
            for one in make().operatorCodes
            if one.builtinCode == code
        }
        assert known - used == {"DEQUANTIZE"}  # in the files below

    @pytest.mark.parametrize("profile", PROFILES)
    @pytest.mark.parametrize("name", ["digits_net", "kernels", "concat_shared_wide"])
    def test_what_is_built_is_sound(self, name, profile):
        artifact = net_artifact(name)
        builder = ModelBuilder(artifact)
        for policy in (artifact.space.widest(), artifact.space.narrowest()):
            content = builder.build(policy, profile=profile)
            assert isinstance(content, CheckedModel)
            assert find_fault(parse_model(bytes(content))) is None

    def test_what_shipped_before_is_sound_and_written_alike(self):
        paths = [*(ROOT / "tests" / "golden").rglob("*.tflite")]
        contents = [path.read_bytes() for path in paths]
        contents.append(read_artifact(SHIPPED).template)
        assert len(contents) > 5
        for content in contents:
            assert check_model(content) == content

    def test_signatures_are_sound(self):
        model = conv()
        with_signature()(model)
        assert find_fault(model) is None

    def test_a_checked_file_is_not_checked_again(self):
        content = check_model(write_model(conv()))
        assert check_model(content) is content
        assert not isinstance(content[:], CheckedModel)


def _tensor(model, index):
    return model.subgraphs[0].tensors[index]


def shape(index, *sizes):
    return lambda m: setattr(_tensor(m, index), "shape", np.array(sizes, np.int32))


def grid(index, scale, zero_point=0, axis=0):
    def change(m):
        zeros = [zero_point] * len(scale)
        _tensor(m, index).quantization = quantization(scale, zeros, axis)

    return change


def of_tensor(index, **values):
    return lambda m: [setattr(_tensor(m, index), *one) for one in values.items()]


def of_operator(**values):
    return lambda m: [
        setattr(m.subgraphs[0].operators[-1], *one) for one in values.items()
    ]


def option(**values):
    return lambda m: [
        setattr(m.subgraphs[0].operators[-1].builtinOptions, *one)
        for one in values.items()
    ]


def setting(*values, index=3):
    return lambda m: set_buffer(m, _tensor(m, index), np.array(values, np.int32))


def of_graph(**values):
    return lambda m: [setattr(m.subgraphs[0], *one) for one in values.items()]


def of_code(**values):
    return lambda m: [setattr(m.operatorCodes[-1], *one) for one in values.items()]


def of_buffer(**values):
    return lambda m: [setattr(m.buffers[-1], *one) for one in values.items()]


def with_metadata(name):
    def change(m):
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, 0
        m.metadata = [entry]

    return change


def with_signature(index=0, subgraph=0, key="serve", name="x"):
    def change(m):
        signature, at = schema.SignatureDefT(), schema.TensorMapT()
        at.tensorIndex, signature.subgraphIndex = index, subgraph
        at.name, signature.signatureKey = name, key
        signature.inputs, signature.outputs = [at], []
        m.signatureDefs = [signature]

    return change


def widened(amount):
    """The image padded so far that one sample takes too much."""

    def change(m):
        setting(0, 0, 0, amount, 0, amount, 0, 0)(m)
        shape(2, 1, 4 + amount, 6 + amount, 2)(m)

    return change


TINY = np.float32(1e-31)
UNSOUND = [
    # Tensors.
    ("relu", shape(2, 1, 4, 6, 3), r"the shape \(1, 4, 6, 2\)"),
    ("relu", shape(2, 1, 4, 0, 2), "sizes of at least 1"),
    ("relu", shape(2, 1, 4, -1, 2), "sizes of at least 1"),
    ("relu", shape(1, 1, 1, 1, 1, 1, 1), "at most 5 sizes"),
    ("relu", shape(1), "the shape|an axis"),
    ("relu", shape(0, 2, 4, 6, 2), "an input of one sample"),
    ("relu", both(shape(0), shape(1), shape(2)), "an input of one sample"),
    ("add", both(shape(2, 8, 4, 6, 2), shape(1, 8, 4, 6, 2)), "the shape"),
    ("relu", of_tensor(2, type=TYPES.UINT32), "a known type"),
    ("relu", of_tensor(2, type=TYPES.UINT8), "data of types"),
    ("relu", of_tensor(2, type=TYPES.INT32), "data of types"),
    ("relu", of_tensor(1, type=TYPES.FLOAT32), "data of types"),
    ("relu", of_tensor(0, type=TYPES.INT16), "an input in float32"),
    ("relu", of_tensor(0, type=TYPES.INT8), "one step of 't0'"),
    ("relu", of_tensor(2, isVariable=True), "a dense constant"),
    ("relu", of_tensor(2, externalBuffer=1), "a dense constant"),
    ("relu", of_tensor(2, shapeSignature=np.array([-1, 4])), "a signature of the"),
    ("relu", of_tensor(2, shapeSignature=np.array([1, 4, 6, 3])), "a signature of"),
    ("relu", of_tensor(2, quantization=None), "one step of 't2'"),
    ("relu", grid(2, []), "one step of 't2'"),
    ("relu", grid(2, [0.5, 0.5]), "steps along an axis|one step"),
    ("relu", grid(2, [0.5] * 4, axis=1), "one step of 't2'"),
    ("relu", grid(2, [0.5], axis=4), "steps along an axis"),
    ("relu", grid(2, [0.5], axis=-1), "steps along an axis"),
    ("relu", grid(2, [0.0]), "steps of 1e-30"),
    ("relu", grid(2, [-0.5]), "steps of 1e-30"),
    ("relu", grid(2, [np.nan]), "steps of 1e-30"),
    ("relu", grid(2, [np.inf]), "steps of 1e-30"),
    ("relu", grid(2, [2e26]), "steps of 1e-30"),
    ("relu", grid(2, [TINY]), "steps of 1e-30"),
    ("relu", grid(2, [0.5], -129), r"zero points in -128\.\.127"),
    ("relu", grid(2, [0.5], 128), r"zero points in -128\.\.127"),
    ("conv", grid(3, [0.25] * 3, 1), r"zero points in 0\.\.0"),
    ("conv", grid(4, [0.125] * 3, 1), r"zero points in 0\.\.0"),
    ("conv", of_buffer(data=np.zeros(11, np.uint8)), "12 bytes of tensor 4"),
    ("conv", of_buffer(data=np.zeros(13, np.uint8)), "12 bytes of tensor 4"),
    ("conv", of_buffer(data=None), "all that is read there"),
    ("conv", of_buffer(offset=64, size=12), "buffers within the file"),
    # Flow.
    ("relu", of_graph(inputs=[]), "one input or more"),
    ("relu", of_graph(inputs=[0, 0]), "all different"),
    ("relu", of_graph(inputs=[0, 1]), "an input that nothing makes"),
    ("relu", of_graph(inputs=[1]), "an input that nothing makes"),
    ("relu", of_graph(outputs=[2, 2]), "different outputs"),
    ("relu", of_graph(outputs=[0]), "outputs that operators make"),
    (
        "reshape",
        both(of_operator(outputs=[3]), of_graph(outputs=[3])),
        "nothing stored for a tensor that is made",
    ),
    ("relu", with_signature(3), "signatures of tensors"),
    ("relu", with_signature(0, 1), "signatures of tensors"),
    ("relu", with_signature(key=None), "signatures of tensors"),
    ("relu", with_signature(name=None), "signatures of tensors"),
    ("relu", with_metadata("model_control_dependencies"), "metadata among"),
    # Any operator.
    ("relu", of_operator(inputs=[]), "1 inputs"),
    ("relu", of_operator(inputs=[1, 1]), "1 inputs"),
    ("relu", of_operator(inputs=[-1]), "all inputs"),
    ("conv", of_operator(inputs=[1, 3]), "3 inputs"),
    ("conv", of_operator(inputs=[1, 3, -1]), "all inputs"),
    ("conv", of_operator(inputs=[1, -1, 4]), "all inputs"),
    ("conv", of_operator(inputs=[1, 1, 4]), "samples, and kernels|type of its input"),
    ("relu", of_operator(outputs=[2, 2]), "one output"),
    ("conv", of_operator(builtinOptions=None), "options among"),
    ("conv", of_operator(builtinOptionsType=0), "options among"),
    ("relu", of_operator(customOptions=np.zeros(1, np.uint8)), "no other options"),
    ("relu", of_operator(intermediates=np.array([1])), "no other options"),
    ("relu", of_operator(largeCustomOptionsOffset=1), "no other options"),
    ("relu", of_code(customCode="FlexRelu"), "builtin operators"),
    ("relu", of_code(builtinCode=schema.BuiltinOperator.WHERE), "checked here"),
    ("relu", of_code(builtinCode=schema.BuiltinOperator.ABS), "operands in float"),
    ("pad", of_operator(inputs=[1, 1]), "int32 constants at 1"),
    # Multiplications.
    ("conv", shape(1, 1, 4, 12), "the shape|rank 4"),
    ("conv", shape(3, 3, 3, 6), "a kernel of rank 4"),
    ("conv", shape(3, 3, 3, 2, 3), "a kernel for 2 input channels"),
    ("conv", both(shape(4, 1, 3), grid(4, [0.125] * 3, axis=1)), "a bias of 3"),
    ("conv", grid(3, [0.25] * 3, axis=1), "steps along axis 0"),
    ("conv", grid(3, [0.25] * 2, axis=3), "steps along axis 0"),
    ("conv", grid(3, []), "steps of all integers"),
    ("conv", grid(4, [0.25] * 3), "a bias in steps"),
    ("conv", grid(4, [0.125]), "a bias in steps"),
    ("conv", grid(2, [0.125 / 256]), "a product's step below 256"),
    ("conv", of_tensor(4, type=TYPES.FLOAT32), "a stored bias of its type"),
    ("conv", option(strideH=0), "strides of 1 to"),
    ("conv", option(strideW=-1), "strides of 1 to"),
    ("conv", option(strideW=1025), "strides of 1 to"),
    ("conv", option(dilationHFactor=0), "dilations of 1 to"),
    ("conv", option(dilationWFactor=2**30), "dilations of 1 to"),
    ("conv", option(padding=2), "a padding that is known"),
    ("conv", option(fusedActivationFunction=4), "a fused activation"),
    ("conv_valid", option(dilationHFactor=2), "windows within 4"),
    ("depthwise", option(depthMultiplier=0), "a kernel of 0 times 2"),
    ("depthwise", option(depthMultiplier=1), "a kernel of 1 times 2"),
    ("depthwise", grid(3, [0.25] * 3, axis=1), "steps along axis 3"),
    ("dense", option(weightsFormat=1), "the default format"),
    ("dense", option(asymmetricQuantizeInputs=True), "the default format"),
    ("dense", both(shape(3, 6, 3), grid(3, [0.25])), "a bias of 6|for 6 inputs"),
    ("dense_keeps", both(shape(3, 6, 3), grid(3, [0.25])), "a bias of 6"),
    ("dense_keeps", option(keepNumDims=False), r"the shape \(4, 3\)"),
    ("dense", both(shape(0, 1, 7), shape(1, 1, 7)), "rows of 7 inputs in all"),
    ("transposed", of_operator(inputs=[5, 3]), "3 to 4 inputs"),
    ("transposed", of_operator(inputs=[-1, 3, 1, 4]), "all inputs"),
    ("transposed", of_operator(inputs=[1, 3, 1, 4]), "int32 constants at 0"),
    ("transposed", of_operator(inputs=[5, 1, 3, 4]), "samples, and kernels|its input"),
    ("transposed", of_tensor(3, type=TYPES.INT4), "bytes of tensor 3"),
    ("transposed", setting(2, 8, 6, 3, index=5), "a shape of an image of 3"),
    ("transposed", setting(1, 8, 6, 2, index=5), "a shape of an image of 3"),
    ("transposed", setting(1, 9, 6, 3, index=5), "a size that windows of 3 make of 4"),
    ("transposed", setting(1, 6, 6, 3, index=5), "a size that windows of 3 make of 4"),
    ("transposed", setting(1, 7, 6, 3, index=5), r"the shape \(1, 7, 6, 3\)"),
    ("transposed", setting(-1, 8, 6, 3, index=5), "a shape of an image of 3"),
    ("transposed", setting(1, -8, 6, 3, index=5), "a size that windows of 3 make of 4"),
    ("transposed", both(shape(5, 3), setting(1, 8, 6, index=5)), "a shape of an image"),
    ("transposed", option(padding=VALID), "a size that windows of 3 make of 4"),
    ("transposed", option(padding=3), "a padding that is known"),
    ("transposed_apart", option(padding=SAME), "windows of at least the strides"),
    ("transposed", option(strideH=0), "strides of 1 to"),
    ("transposed", option(strideW=2), "a size that windows of 3 make of 6"),
    ("transposed", option(fusedActivationFunction=4), "a fused activation"),
    ("transposed", shape(3, 3, 3, 1, 6), "a kernel for 2 input channels"),
    ("transposed", grid(3, [0.25] * 3, axis=1), "steps along axis 0"),
    ("transposed", grid(2, [0.125 / 256]), "a product's step below 256"),
    # Others.
    ("average", option(filterHeight=0), "windows of at least 1"),
    ("average", option(filterHeight=5), "windows within 4"),
    ("average", grid(2, [0.25]), "the grid"),
    ("max", option(strideH=2**31 - 1), "strides of 1 to"),
    ("add", shape(2, 1, 4, 6, 1), r"the shape \(1, 4, 6, 2\)"),
    ("add", grid(2, [0.5 / 2**19]), "steps below 524288 times"),
    ("add", grid(2, [0.5 * 2**41]), "steps below 524288 times"),
    ("sub", grid(2, [0.5 / 2**19]), "steps below 524288 times"),
    ("sub", option(fusedActivationFunction=2), "a fused activation"),
    ("mul", grid(2, [0.25 / 2**19]), "steps below 524288 times"),
    ("mul", grid(2, [0.25 * 2**41]), "steps below 524288 times"),
    ("mul", option(fusedActivationFunction=2), "a fused activation"),
    ("maximum", grid(2, [0.25]), "the grid"),
    ("minimum", grid(2, [0.5], 1), "the grid"),
    ("mean", setting(1, 1), "different axes"),
    ("mean", setting(0, 1), "different axes"),
    ("mean", setting(1, 4), "different axes"),
    ("mean", setting(1, -5), "different axes"),
    ("mean", option(keepDims=True), "the shape"),
    ("reduce_max", grid(2, [0.5], 1), "the grid"),
    ("concat", option(axis=0), "different axes"),
    ("concat", option(axis=4), "different axes"),
    ("concat", option(axis=2), "the shape"),
    ("concat", option(fusedActivationFunction=1), "no fused activation"),
    ("concat", grid(2, [0.25]), "the grid"),
    ("pad", setting(0, 1, 1, 2, 0, 1, 0, 0), "none of the batch"),
    ("pad", setting(0, 0, -1, 4, 0, 1, 0, 0), "paddings of 0 to"),
    ("pad", shape(3, 8), "paddings of the shape"),
    ("pad", widened(2**16), "bytes of tensors"),
    ("slice", setting(0, 4, 4, 0, index=3), r"a slice within 0\.\.4"),
    ("slice", setting(0, -5, 4, 0, index=3), r"a slice within 0\.\.4"),
    ("slice", setting(0, 1, 6, 0, index=3), r"a slice within 0\.\.6"),
    ("slice", setting(0, 1, 5, 0, index=4), r"a slice within 0\.\.4"),
    ("slice", setting(1, 1, 1, 0, index=5), r"a slice within 0\.\.2"),
    ("slice", setting(1, -1, 1, 1, index=5), r"a slice within 0\.\.4"),
    ("slice", setting(2, 1, 1, 1, index=5), "all samples"),
    ("slice", option(beginMask=8), "all samples"),
    ("slice", option(endMask=8), "all samples"),
    ("slice", option(shrinkAxisMask=5), "bounds of single indices"),
    ("slice", option(beginMask=13), "bounds of single indices"),
    ("slice", option(newAxisMask=2), "a mask of begins, ends"),
    ("slice", option(ellipsisMask=2), "a mask of begins, ends"),
    ("slice", option(offset=True), "a mask of begins, ends"),
    ("slice", both(shape(4, 3), setting(0, 1, 4, index=4)), "4 bounds"),
    ("transpose", setting(3, 0, 1, 2), "samples first"),
    ("transpose", setting(0, 1, 1, 2), "an order of axes"),
    ("transpose", setting(0, 1, 2, 4), "an order of axes"),
    ("transpose", both(shape(3, 3), setting(0, 2, 1)), "an order of axes"),
    ("tile", setting(2, 3, 1, 2), "copies of each axis"),
    ("tile", setting(1, 3, 0, 2), "copies of each axis"),
    ("tile", setting(1, 3, 1, 2**16 + 1), "copies of each axis"),
    ("tile", both(shape(3, 3), setting(1, 3, 2)), "copies of each axis"),
    ("depth_to_space", option(blockSize=0), "blocks of 1 to"),
    ("depth_to_space", option(blockSize=3), "blocks of 3"),
    ("depth_to_space", option(blockSize=2**30), "blocks of 1 to"),
    ("space_to_depth", option(blockSize=4), "blocks of 4"),
    ("space_to_depth", option(blockSize=-2), "blocks of 1 to"),
    ("bilinear", option(halfPixelCenters=False), "centres at halves"),
    ("bilinear", option(alignCorners=True), "centres at halves"),
    ("bilinear", setting(0, 9), "a height and a width"),
    ("bilinear", setting(-8, 9), "a height and a width"),
    ("bilinear", setting(8, 2**16 + 1), "a height and a width"),
    ("bilinear", both(shape(3, 1), setting(8)), "a height and a width"),
    ("bilinear", grid(2, [0.25]), "the grid"),
    ("nearest", option(alignCorners=True), "centres at halves"),
    ("nearest", grid(2, [0.5], 1), "the grid"),
    ("reshape", setting(-1, 47), "a shape of 48 elements"),
    ("reshape", setting(1, -1), "a shape of 48 elements"),
    ("reshape", setting(-1, -48), "a shape of 48 elements"),
    ("reshape", setting(2, -24), "a shape of 48 elements"),
    ("reshape", setting(2, 24), "the shape"),
    ("rows", setting(-1, 8), "the shape"),
    ("expand", setting(0), "different axes"),
    ("expand", setting(4), "different axes"),
    ("squeeze", option(squeezeDims=[2]), "axes of size 1"),
    ("squeeze", option(squeezeDims=None), "different axes"),
    ("leaky", option(alpha=np.nan), "a slope"),
    ("leaky", option(alpha=-0.5), "a slope"),
    ("softmax", option(beta=0.0), "a beta"),
    ("softmax", option(beta=np.inf), "a beta"),
    ("softmax", grid(2, [1 / 128], -128), "TFLite's fixed grid"),
    ("logistic", grid(2, [1 / 256], 0), "TFLite's fixed grid"),
    ("tanh", grid(2, [1 / 128], 1), "TFLite's fixed grid"),
    ("relu", grid(2, [0.25]), "the grid"),
    ("quantize", grid(2, [0.5 / 2**19]), "steps below 524288 times"),
]


class TestUnsound:
    @pytest.mark.parametrize(
        ("name", "change", "message"),
        UNSOUND,
        ids=[f"{name}-{i}" for i, (name, *_) in enumerate(UNSOUND)],
    )
    def test_one_changed_field_is_refused(self, name, change, message):
        model = SOUND[name]()
        change(model)
        check_refusal(model, message)

    def test_too_much_arithmetic_is_refused(self):
        model = multiplication(
            "CONV_2D",
            (1, 1024, 1024, 64),
            (64, 5, 5, 64),
            (1, 1024, 1024, 64),
            conv().subgraphs[0].operators[1].builtinOptions,
        )
        assert "products in the model" in find_fault(model)

    def test_each_pixel_meets_a_transposed_kernel_once(self):
        large = transposed(size=(8, 6), kernel=(3, 3, 3, 2))
        assert find_fault(large, max_products=24 * 54) is None
        fault = find_fault(large, max_products=24 * 54 - 1)
        assert "products in the model" in fault

    def test_wide_strides_of_a_transposed_kernel_are_refused(self):
        """XNNPACK packs each part of the kernel that meets at a place by itself."""
        wide = transposed(VALID, (2800, 4200), (1, 700, 700, 2), (700, 700))
        assert "places of windows" in find_fault(wide)

    def test_windows_are_counted_together(self):
        # 2**25 places are 1398101 in each of the 24 windows of the image, and a bit.
        model = pool("MAX_POOL_2D", padding=SAME, strideH=1, strideW=1)
        shape(2, *IMAGE)(model)
        option(filterHeight=1, filterWidth=1_398_101)(model)
        assert find_fault(model) is None
        first = model.subgraphs[0].operators[1]
        second = add_tensor(model, IMAGE)
        again = add_operator(
            model, "MAX_POOL_2D", first.outputs, second, first.builtinOptions
        )
        model.subgraphs[0].outputs = [second]
        assert "at most 33554432 places" in find_fault(model)
        again.builtinOptions = first.builtinOptions = options_of(
            "Pool2DOptions", **{**vars(first.builtinOptions), "filterWidth": 699_000}
        )
        assert find_fault(model) is None

    @pytest.mark.parametrize(
        ("width", "fault"), [(1_056_832, None), (1_056_833, "fill up")]
    )
    def test_kernels_that_tiles_multiply_are_refused(self, width, fault):
        # One channel of input and output takes 16 x 8, 127 more than its own.
        options = SOUND["conv"]().subgraphs[0].operators[1].builtinOptions
        pixel = (1, 1, 1, 1)
        model = multiplication("CONV_2D", pixel, (1, 1, width, 1), pixel, options)
        found = find_fault(model)
        assert found is None if fault is None else fault in found

    def test_what_is_unpacked_is_a_kernel_and_nothing_else(self):
        model = graph_of("QUANTIZE", (1, 2), (1, 2))
        stored = add_tensor(model, (1, 2), values=np.ones(2, np.int8))
        unpacked = add_tensor(model, (1, 2), TYPES.FLOAT32, scale=())
        add_operator(model, "DEQUANTIZE", [stored], unpacked)
        assert find_fault(model) is None
        result = add_tensor(model, (1, 2))
        add_operator(model, "QUANTIZE", [unpacked], result)
        assert "samples, and kernels from the file" in find_fault(model)


class TestDoors:
    def test_the_simulator_is_given_sound_graphs_alone(self):
        model = pool("MAX_POOL_2D", padding=SAME)
        shape(2, 1, 2, 3, 2)(model)
        samples = np.ones((2, 4, 6, 2), np.float32)
        assert simulate(write_model(model), samples).shape == (2, 2, 3, 2)
        option(strideH=2**31 - 1)(model)
        with pytest.raises(ExportError, match=r"strides of 1 to 1024 .* fetch"):
            simulate(write_model(model), samples)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: of_operator(inputs=[9])(m), "points outside|Expected"),
            (lambda m: of_tensor(2, shape=np.array([1, 1]))(m), "Expected"),
        ],
    )
    def test_a_builder_refuses_a_template(self, change, message):
        artifact = digits_artifact()
        model = parse_model(artifact.template)
        change(model)
        changed = dataclasses.replace(artifact, template=write_model(model))
        with pytest.raises(MatarError, match=message):
            ModelBuilder(changed)

    def test_rows_of_the_table_name_options_of_the_schema(self):
        for row in OPERATORS.values():
            assert all(hasattr(schema.BuiltinOptions, one) for one in row.options)
