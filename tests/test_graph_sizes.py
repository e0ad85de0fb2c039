"""What a graph takes is counted once for each use: on both sides of every limit."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from fixtures.graphs import (
    TYPES,
    add_operator,
    add_tensor,
    graph_of,
    multiplication,
    options_of,
)

from matar_tf.tflite._graph_rules import find_fault
from matar_tf.tflite._schema import schema, set_buffer


def pooled(count):
    """An image of 2**26 bytes, which so many operators take the mean of."""
    image = (1, 2048, 2048, 16)
    options = options_of("ReducerOptions", keepDims=False)
    model = graph_of("MEAN", image, (1, 16), options, [1, 2])
    for _ in range(count - 1):
        result = add_tensor(model, (1, 16))
        add_operator(model, "MEAN", [1, 3], result, options)
    return model


def chained(count, share):
    """A chain of dense layers, the kernels of all of which are one of 2**20 bytes."""
    row, options = (1, 1024), options_of("FullyConnectedOptions")
    model = multiplication("FULLY_CONNECTED", row, (1024, 1024), row, options)
    tensors = model.subgraphs[0].tensors
    last, scale = 2, tensors[3].quantization.scale
    for _ in range(count - 1):
        kernel, result = 3, add_tensor(model, row)
        if share == "buffer":
            kernel = add_tensor(model, (1024, 1024), scale=scale)
            tensors[kernel].buffer = tensors[3].buffer
        add_operator(model, "FULLY_CONNECTED", [last, kernel, 4], result, options)
        last = result
    model.subgraphs[0].outputs = [last]
    return model


def packed(size):
    """A convolution of packed kernels, with windows of this size over 2**24 bytes."""
    image, kernel = (1, 512, 512, 64), (1, *size, 64)
    options = options_of(
        "Conv2DOptions",
        **{"strideH": 1, "strideW": 1, "padding": schema.Padding.SAME},
        **{"dilationHFactor": 1, "dilationWFactor": 1},
    )
    model = multiplication("CONV_2D", image, kernel, (1, 512, 512, 1), options)
    stored = model.subgraphs[0].tensors[3]
    stored.type = TYPES.INT4
    set_buffer(model, stored, np.zeros(np.prod(kernel) // 2, np.uint8))
    return model


def test_what_operators_read_is_counted_for_each():
    # The first operator reads as much.
    assert find_fault(pooled(15)) is None
    fault = find_fault(pooled(16))
    assert fault is not None
    assert "at most 1073741824 values that operators read" in fault
    assert str(17 * 2**26) in fault


@pytest.mark.parametrize("share", ["tensor", "buffer"])
def test_kernels_are_packed_again_for_each_operator(share):
    assert find_fault(chained(129, share)) is None
    fault = find_fault(chained(130, share))
    assert fault is not None
    assert "at most 134217728 bytes that fill up kernels, or repeat them" in fault


def test_windows_that_are_laid_out_are_bounded():
    # 512 * 512 places of 4 * 8 * 64 values are 2**29 bytes.
    assert find_fault(packed((4, 8))) is None
    fault = find_fault(packed((3, 11)))
    assert fault is not None
    assert "at most 536870912 bytes of windows" in fault


def test_packed_kernels_that_share_a_buffer_are_not_unpacked():
    model = graph_of("RELU", (1, 4), (1, 4))
    for _ in range(50):
        index = add_tensor(model, (1 << 20,), TYPES.INT2)
        tensor = model.subgraphs[0].tensors[index]
        if index == 3:
            set_buffer(model, tensor, np.zeros(1 << 18, np.uint8))
        tensor.buffer = len(model.buffers) - 1
    tracemalloc.start()
    assert find_fault(model) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20  # unpacked, one of them takes that


def test_settings_are_as_many_as_a_tensor_has_axes():
    def expanded(count):
        return graph_of("EXPAND_DIMS", (1, 4), (1, 1, 4), None, [1] * count)

    assert find_fault(expanded(1)) is None
    assert "one axis" in str(find_fault(expanded(10)))
    assert "a few int32 constants at 1" in str(find_fault(expanded(11)))


def test_options_are_as_many_as_a_tensor_has_axes():
    def squeezed(count):
        axes = np.full(count, 1, np.int32)
        options = options_of("SqueezeOptions", squeezeDims=axes)
        return graph_of("SQUEEZE", (1, 1, 4), (1, 4), options)

    assert find_fault(squeezed(1)) is None
    assert "options of" not in str(find_fault(squeezed(5)))
    assert "options of at most 5 sizes" in str(find_fault(squeezed(6)))
