"""Whether a ``.tflite`` file may be given to native code: a check of its graph.

Interpreters trust a file: an input that is not there, a step that is infinite or a
kernel of another length than its shape says ends the process, or worse. So a graph is
checked here, operator by operator, before any interpreter or the simulator has it; what
passes is written anew from its checked object form, so that no offset of a stranger is
left in it. A template is checked once, what is filled into it is right by construction.

The checks are those of `matar_tf.operators` (inputs, options, grids), the rule of each
operator (`matar_tf.tflite._operator_rules`), and what holds for every tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from matar_tf.errors import ExportError
from matar_tf.operators import CostShape, Grid
from matar_tf.tflite import _choosing_rules, _moving_rules
from matar_tf.tflite._float_rules import check_float_types, note_products
from matar_tf.tflite._graph_nodes import (
    GRIDDED,
    LEAST_STORED_STEP,
    GraphTensor,
    Node,
    UnsoundError,
    expect,
    integers,
    is_empty,
    read_node,
    read_tensor,
)
from matar_tf.tflite._graph_sizes import MAX_PRODUCTS, Sizes
from matar_tf.tflite._operator_rules import RULES
from matar_tf.tflite._rules_at_16 import (
    FIXED_GRID_AT_16,
    check_at_16,
    ratio_limit_at_16,
)
from matar_tf.tflite._schema import (
    PACKED_BITS,
    CheckedModel,
    OneSampleModel,
    custom_names,
    op_name,
    parse_model,
    schema,
    text_of,
    type_name,
    write_model,
)
from matar_tf.tflite.metadata import METADATA_NAME, STANDARD_NAME, drop_standard

__all__ = [
    "LEAST_RATIO",
    "RATIO_LIMIT",
    "SUM_RATIO_LIMIT",
    "check_model",
    "examine",
    "find_fault",
    "lacking_operators",
    "written",
]

# From here on XNNPACK makes no convolution or dense layer: its shifts end there.
RATIO_LIMIT: Final = 256
# From here on TFLite's sum of two tensors ends the process: its factor must be below 1.
SUM_RATIO_LIMIT: Final = 2**19
LEAST_RATIO: Final = 2.0**-40  # nothing comes out of what is smaller

_REGISTERED: Final = (_choosing_rules, _moving_rules)  # fill RULES
_TYPES: Final = schema.TensorType
_STEP_TOLERANCE: Final = 1e-3  # relative, of a bias; TFLite's is 2e-2
_METADATA: Final = (
    *("CONVERSION_METADATA", METADATA_NAME, STANDARD_NAME, "min_runtime_version"),
)
_FIXED_GRIDS: Final = {
    "LOGISTIC": (1 / 256, -128),
    "SOFTMAX": (1 / 256, -128),
    "TANH": (1 / 128, 0),
}
# Activations: an operator reads and makes those of one type.
_WIDE: Final = _TYPES.INT16
_BORDERS: Final = {
    "QUANTIZE": {
        _TYPES.INT8: (_TYPES.FLOAT32, _TYPES.INT8, _TYPES.UINT8),
        _TYPES.UINT8: (_TYPES.INT8,),
        _WIDE: (_TYPES.FLOAT32,),
    },
    "DEQUANTIZE": {_TYPES.FLOAT32: (_TYPES.INT8, _WIDE, *PACKED_BITS)},
}
_BYTES: Final = (_TYPES.INT8, _TYPES.UINT8)
_INNER: Final = {_TYPES.INT8: (_TYPES.INT8,), _WIDE: (_WIDE,)}
_BIASES: Final = {
    _TYPES.FLOAT32: _TYPES.FLOAT32,
    _TYPES.INT8: _TYPES.INT32,
    _WIDE: _TYPES.INT64,
}
_INTEGER_KERNELS: Final = {
    "CONV_2D": (_TYPES.INT8, _TYPES.INT4),
    "DEPTHWISE_CONV_2D": (_TYPES.INT8, _TYPES.INT4),
    "FULLY_CONNECTED": (_TYPES.INT8, _TYPES.INT4, _TYPES.INT2),
    "TRANSPOSE_CONV": (_TYPES.INT8,),
}


def check_model(content: bytes) -> CheckedModel:
    """Returns a file in a form that native code may be given.

    One in which samples would meet comes as a `OneSampleModel`.

    Raises:
      ExportError: If it is damaged, or a graph that may not.
    """
    if isinstance(content, CheckedModel):
        return content
    model = parse_model(content)
    fault, is_of_one_sample = examine(model)
    if fault is not None:
        raise ExportError(
            f"{fault[0].upper()}{fault[1:]}; export or fetch the file again."
        )
    return written(model, is_of_one_sample=is_of_one_sample)


def written(model: Any, *, is_of_one_sample: bool) -> CheckedModel:
    """Returns the bytes of a model in which `examine` finds no fault.

    Its TFLite Metadata, in which it does not look, are dropped.
    """
    drop_standard(model)
    kind = OneSampleModel if is_of_one_sample else CheckedModel
    return kind(write_model(model))


def find_fault(model: Any, *, max_products: int = MAX_PRODUCTS) -> str | None:
    """Returns the first of what `examine` returns."""
    return examine(model, max_products=max_products)[0]


def examine(model: Any, *, max_products: int = MAX_PRODUCTS) -> tuple[str | None, bool]:
    """Returns why a model may not be given to native code, or None if it may.

    The reason is what was expected and what came, a sentence without its ends. With it
    comes whether samples would meet if there were several, in a graph that computes in
    float.

    Args:
      model: As `parse_model` returns it.
      max_products: Multiplications of one sample, and values of its windows, that it
        may have at most.
    """
    try:
        nodes = _check_graph(model, max_products)
    except UnsoundError as fault:
        return str(fault), False
    return None, any(node.meetings for node in nodes)


def _check_graph(model: Any, max_products: int) -> list[Node]:
    """Returns the operators of a sound model, with where samples meet in them."""
    _check_parts(model)
    graph = model.subgraphs[0]
    tensors = [read_tensor(model, index) for index in range(len(graph.tensors))]
    stored = {id(one) for one in tensors if one.values is not None}
    nodes: list[Node] = []
    for operator in graph.operators:
        node = read_node(model, tensors, operator, stored)
        nodes.append(node)
        if len(node.fixed) == len(node.data):
            stored.update(map(id, node.outputs))
    _check_flow(graph, tensors)
    _check_batch(nodes)
    note_products(nodes)
    sizes = Sizes(max_products)
    for node in nodes:
        _check_node(node)
        sizes.add(node)
    return nodes


def _check_parts(model: Any) -> None:
    """Checks that a model has nothing that rules do not look at."""
    graph = model.subgraphs[0]
    custom = custom_names(model)
    expect(not custom, "builtin operators", custom)
    unknown = _unknown(model)
    expect(not unknown, "operators that are checked here", unknown)
    outside = [one for one in model.buffers if one.offset or one.size]
    outside += model.externalBuffers or []
    outside += model.externalBufferGroups or []
    expect(not outside, "buffers within the file", f"{len(outside)} outside")
    expect(is_empty(model.metadataBuffer), "no old metadata", model.metadataBuffer)
    names = [text_of(one.name)[:80] for one in model.metadata or []]
    others = [name for name in names if name not in _METADATA]
    expect(not others, f"metadata among {list(_METADATA)}", others[:3])
    for one in model.signatureDefs or []:
        maps = [*(one.inputs or []), *(one.outputs or [])]
        is_whole = one.subgraphIndex == 0 and bool(one.signatureKey)
        is_whole = is_whole and all(
            at.name and 0 <= at.tensorIndex < len(graph.tensors) for at in maps
        )
        name = text_of(one.signatureKey)[:80]
        expect(is_whole, "named signatures of tensors of the graph", name)


def _unknown(model: Any) -> list[str]:
    """Returns the operators that no rule checks, sorted."""
    operators = model.subgraphs[0].operators
    return sorted({op_name(model, one) for one in operators} - set(RULES))


def lacking_operators(content: bytes) -> list[str]:
    """Returns the operators of a file that nothing here runs, by name."""
    model = parse_model(content)
    return custom_names(model) or _unknown(model)


def _check_flow(graph: Any, tensors: list[GraphTensor]) -> None:
    """Checks that every tensor is a constant, an input, or made by one operator.

    That operators stand in the order of their tensors, `parse_model` has checked.
    """
    inputs, outputs = integers(graph.inputs), integers(graph.outputs)
    made = [int(index) for one in graph.operators for index in one.outputs]
    read = {int(index) for one in graph.operators for index in one.inputs} - {-1}
    apart = bool(inputs) and len(set(inputs)) == len(inputs)
    expect(apart, "one input or more, all different", inputs)
    expect(not set(inputs) & set(made), "an input that nothing makes", inputs)
    known = (_TYPES.FLOAT32, _TYPES.INT32, *_BYTES)
    for source in (tensors[index] for index in inputs):
        name = type_name(source.type)
        expected = "an input in float32, int32, int8 or uint8"
        expect(source.type in known, expected, name)
        expect(source.shape[:1] == (1,), "an input of one sample", source.shape)
    fits = len(set(outputs)) == len(outputs) and set(outputs) <= set(made)
    expect(fits, "different outputs that operators make", outputs)
    for index in {*made, *inputs}:
        tensor = tensors[index]
        is_computed = tensor.values is None and tensor.type not in PACKED_BITS
        expect(is_computed, "nothing stored for a tensor that is made", tensor.name)
        plain = tensor.type not in (*_INNER, *_BYTES) or len(tensor.scale) == 1
        expect(plain, f"one step of {tensor.name!r}", len(tensor.scale))
    for index in read - {*made, *inputs}:
        tensor = tensors[index]
        expect(tensor.values is not None, "all that is read there", tensor.name)


def _check_batch(nodes: Iterable[Node]) -> None:
    """Checks that samples stay apart: a file runs at any batch size.

    The first axis of a computed tensor is the batch, or some rows for each sample, as
    of a dense layer over a sequence; rules leave it alone. In float samples may meet,
    which rules note. What is unpacked from the file is for what computes in float.
    """
    for node in nodes:
        fixed, places = node.fixed, [*range(len(node.data))]
        if node.name == "DEQUANTIZE" and fixed:
            continue
        if node.row.shape is CostShape.KERNEL:
            fits = fixed == places[1:]
        else:
            is_table = node.name == "GATHER" and fixed == [0]
            fits = node.is_float or not fixed or is_table
        node.expect(fits, "samples, and kernels from the file", f"those at {fixed}")
        is_scalar = not node.output.shape and not node.is_float
        node.expect(not is_scalar, "an axis of samples", node.output.shape)


def _check_node(node: Node) -> None:
    """Checks types, shape and grid of what an operator makes."""
    _check_types(node)
    made = RULES[node.name](node)
    shapes = made if isinstance(made, list) else [made] * len(node.outputs)
    for one, shape in zip(node.outputs, shapes, strict=True):
        node.expect(one.shape == shape, f"the shape {shape}", one.shape)
    if _TYPES.UINT8 in (node.output.type, node.data[0].type):
        _check_shift(node)
    if node.output.type not in _INNER or node.data[0].type not in _INNER:
        return
    if node.output.type == _WIDE:
        check_at_16(node)
    grid = _grid(node.output)
    if node.name in _FIXED_GRIDS:
        is_wide = node.output.type == _WIDE
        fixed = FIXED_GRID_AT_16 if is_wide else _FIXED_GRIDS[node.name]
        node.expect(grid == fixed, "TFLite's fixed grid", grid)
    elif node.row.grid in (Grid.KEPT, Grid.INPUT):
        grids = {_grid(one) for one in node.data if one.type in GRIDDED}
        node.expect(grids == {grid}, f"the grid {grid}", grids)
    else:
        _check_ratio(node)


def _check_shift(node: Node) -> None:
    """Checks that unsigned bytes are levels of int8 and 128."""
    pair = (node.output, node.data[0])
    unsigned = next(one for one in pair if one.type == _TYPES.UINT8)
    signed = next((one for one in pair if one.type == _TYPES.INT8), None)
    fits = signed is not None and len(signed.scale) == len(unsigned.scale) == 1
    node.expect(fits, "one step of int8 and of uint8", node.output.type)
    if signed is not None:
        (step, zero_point), grid = _grid(signed), _grid(unsigned)
        node.expect(grid == (step, zero_point + 128), "the same grid, by 128", grid)


def _check_types(node: Node) -> None:
    """Checks the types of data, and that integers have steps."""
    x, output = node.data[0], node.output
    fits = node.is_float or not node.row.is_float
    node.expect(fits, "operands in float", type_name(output.type))
    if node.row.shape is CostShape.KERNEL:
        is_float = output.type == _TYPES.FLOAT32
        kernels = (_TYPES.FLOAT32,) if is_float else _INTEGER_KERNELS.get(node.name, ())
        kernels = (_TYPES.INT8,) if output.type == _WIDE else kernels
        kernel, bias = node.data[1], node.bias
        fits = (
            x.type == output.type
            and output.type in _BIASES
            and kernel.type in kernels
            and (is_float or kernel.values is not None)
            and (x.values is None)
        )
        node.expect(fits, "a kernel of the type of its input", type_name(kernel.type))
        if bias is not None:
            fits = bias.type == _BIASES[output.type] and bias.values is not None
            node.expect(fits, "a stored bias of its type", type_name(bias.type))
        integers = () if is_float else (x, kernel, output)
    elif node.is_float:
        check_float_types(node)
        integers = ()
    else:
        rows = _BORDERS.get(node.name, _INNER)
        taken = rows.get(output.type, ())
        data = node.data
        if node.name == "GATHER":
            node.expect(data[1].type == _TYPES.INT32, "places in int32", data[1].type)
            data = data[:1]
        fits = bool(taken) and all(one.type in taken for one in data)
        types = [one.type for one in (*node.data, output)]
        node.expect(
            fits,
            f"data of types {_types(taken)}, made {_types(rows)}",
            _types(types),
        )
        integers = tuple(one for one in (*data, output) if one.type in GRIDDED)
        single = node.name == "DEQUANTIZE" or all(len(t.scale) == 1 for t in integers)
        node.expect(single, "one step of each tensor", "several")
    has_steps = all(len(one.scale) for one in integers)
    node.expect(has_steps, "steps of all integers", "none")


def _types(types: Iterable[int]) -> str:
    return "/".join(map(type_name, types))


def _grid(tensor: GraphTensor) -> tuple[float, int]:
    return float(tensor.scale[0]), int(tensor.zero_point[0])


def _check_ratio(node: Node) -> None:
    """Checks that fixed-point factors can hold the ratio of steps."""
    out = float(node.output.scale[0])
    if node.row.shape is not CostShape.KERNEL:
        steps = [float(one.scale[0]) for one in node.data]
        ratio = (math.prod(steps) if node.row.is_product else max(steps)) / out
        is_wide = node.output.type == _WIDE
        limit = ratio_limit_at_16(node.name) if is_wide else SUM_RATIO_LIMIT
        fits = LEAST_RATIO <= ratio < limit
        node.expect(fits, f"steps below {limit} times the output's", ratio)
        return
    x, kernel = node.data[:2]
    node.expect(not kernel.zero_point.any(), "kernels without a zero point", "others")
    products = float(x.scale[0]) * kernel.scale.astype(np.float64)
    ratio = float(products.max()) / out
    node.expect(
        ratio < RATIO_LIMIT, f"a product's step below {RATIO_LIMIT} outputs'", ratio
    )
    bias = node.bias
    if bias is not None:
        fits = len(bias.scale) == len(kernel.scale) and np.allclose(
            bias.scale, products, rtol=_STEP_TOLERANCE, atol=LEAST_STORED_STEP
        )
        node.expect(bool(fits), "a bias in steps of input times kernel", bias.scale)
