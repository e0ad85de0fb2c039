"""Operators that move or blend values compute in NumPy what both kernels do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fixtures.graphs import graph_of, options_of
from fixtures.kernels import run_builtin

from matar_tf.tflite._schema import quantization, write_model
from matar_tf.tflite.bilinear import blend_of, builtin_blend_of
from matar_tf.tflite.simulator import simulate_tensors
from matar_tf.tflite.verify import run_all_tensors

IMAGE = (1, 4, 6, 8)
STEP = 0.5
ALL, FOUR_BITS = (-128, 0), (112, 112)  # lowest level in int8, and zero point


def slice_of(result: Any, begins: Any, ends: Any, steps: Any, **masks: int) -> Any:
    options = options_of("StridedSliceOptions", **masks)
    return graph_of("STRIDED_SLICE", IMAGE, result, options, begins, ends, steps)


def resize_of(name: str, source: Any, height: int, width: int) -> Any:
    kinds = {"BILINEAR": "ResizeBilinear", "NEAREST_NEIGHBOR": "ResizeNearestNeighbor"}
    options = options_of(f"{kinds[name]}Options", halfPixelCenters=True)
    result = (1, height, width, source[3])
    return graph_of(f"RESIZE_{name}", source, result, options, [height, width])


def check(model: Any, grid: tuple[int, int], samples: int = 4) -> np.ndarray:
    """Compares every value of both kernels; returns XNNPACK's, int8."""
    lowest, zero_point = grid
    tensors = model.subgraphs[0].tensors
    for tensor in tensors[1:3]:
        tensor.quantization = quantization([STEP], [zero_point], 0)
    content = write_model(model)
    rng = np.random.default_rng(0)
    shape = (samples, *map(int, tensors[0].shape[1:]))
    levels = rng.integers(lowest, 128, shape) - zero_point
    inputs = (levels * STEP).astype(np.float32)
    made = {"xnnpack": run_all_tensors(content, inputs)[2]}
    made["builtin"] = run_builtin(content, inputs)[2]
    for kernels, expected in made.items():
        found = simulate_tensors(content, inputs, kernels=kernels)[2]
        np.testing.assert_array_equal(found, expected, err_msg=kernels)
        assert found.dtype == np.int8
    return made["xnnpack"]


def channels_of_blocks(name: str, source: Any, result: Any) -> Any:
    kinds = {"DEPTH_TO_SPACE": "DepthToSpace", "SPACE_TO_DEPTH": "SpaceToDepth"}
    options = options_of(f"{kinds[name]}Options", blockSize=2)
    return graph_of(name, source, result, options)


MOVES = {
    "crop": lambda: slice_of(
        (1, 2, 5, 8),
        *([0, 1, 0, 0], [0, -1, 5, 0], [1, 1, 1, 1]),
        beginMask=9,
        endMask=9,
    ),
    "steps": lambda: slice_of(
        (1, 2, 2, 4),
        *([0, 0, -5, 1], [0, 3, 6, 8], [1, 2, 3, 2]),
        beginMask=1,
        endMask=1,
    ),
    "one_row": lambda: slice_of(
        (1, 6, 8),
        *([0, -2, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]),
        beginMask=13,
        endMask=13,
        shrinkAxisMask=2,
    ),
    "transpose": lambda: graph_of("TRANSPOSE", IMAGE, (1, 6, 8, 4), None, [0, 2, 3, 1]),
    "tile": lambda: graph_of("TILE", IMAGE, (1, 8, 6, 24), None, [1, 2, 1, 3]),
    "tile_rows": lambda: graph_of("TILE", (1, 1, 5), (1, 3, 5), None, [1, 3, 1]),
    "pad": lambda: graph_of(
        "PAD", IMAGE, (1, 5, 6, 12), None, [[0, 0], [1, 0], [0, 0], [3, 1]]
    ),
    "pad_sequence": lambda: graph_of(
        "PAD", (1, 7, 3), (1, 11, 3), None, [[0, 0], [4, 0], [0, 0]]
    ),
    "concat_rows": lambda: graph_of(
        "CONCATENATION",
        IMAGE,
        (1, 12, 6, 8),
        options_of("ConcatenationOptions", axis=1),
        num_inputs=3,
    ),
    "concat_columns": lambda: graph_of(
        "CONCATENATION",
        IMAGE,
        (1, 4, 12, 8),
        options_of("ConcatenationOptions", axis=-2),
        num_inputs=2,
    ),
    "depth_to_space": lambda: channels_of_blocks(
        "DEPTH_TO_SPACE", IMAGE, (1, 8, 12, 2)
    ),
    "space_to_depth": lambda: channels_of_blocks(
        "SPACE_TO_DEPTH", IMAGE, (1, 2, 3, 32)
    ),
    "max_keeps": lambda: graph_of(
        "REDUCE_MAX",
        IMAGE,
        (1, 1, 1, 8),
        options_of("ReducerOptions", keepDims=True),
        [1, 2],
    ),
    "nearest": lambda: resize_of("NEAREST_NEIGHBOR", IMAGE, 8, 18),
    "nearest_rows": lambda: resize_of("NEAREST_NEIGHBOR", (1, 1, 9, 3), 1, 45),
}


@pytest.mark.parametrize("grid", [ALL, FOUR_BITS])
@pytest.mark.parametrize("name", MOVES)
def test_values_are_moved_as_both_kernels_do(name: str, grid: tuple[int, int]) -> None:
    check(MOVES[name](), grid)


@pytest.mark.parametrize("grid", [ALL, FOUR_BITS])
@pytest.mark.parametrize(
    ("source", "height", "width"),
    [
        ((1, 6, 8, 8), 12, 16),
        ((1, 6, 8, 3), 18, 24),
        ((1, 5, 7, 17), 10, 7),
        ((1, 1, 9, 4), 1, 18),
        ((1, 33, 20, 1), 99, 40),
        ((1, 7, 7, 2), 35, 49),
        ((1, 9, 8, 2), 5, 3),
        ((1, 1, 1, 2), 4, 4),
    ],
)
def test_neighbours_are_blended_as_both_kernels_do(
    source: Any, height: int, width: int, grid: tuple[int, int]
) -> None:
    made = check(resize_of("BILINEAR", source, height, width), grid, samples=16)
    assert made.min() >= grid[0]


def test_a_blend_by_hand() -> None:
    """Twice as many pixels lie a quarter to the left and to the right of a centre."""
    blend = blend_of(3, 6)
    np.testing.assert_array_equal(blend.first, [0, 0, 0, 1, 1, 2])
    np.testing.assert_array_equal(blend.second, [1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(blend.weight, [0, 512, 1536, 512, 1536, 0])
    # A third is 683 of 2048 for one kernel. The other has steps of 341 of 1024.
    np.testing.assert_array_equal(blend_of(2, 6).weight, [0, 0, 683, 1365, 0, 0])
    builtin = builtin_blend_of(2, 6)
    np.testing.assert_array_equal(builtin.first, [0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(builtin.second, [0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(builtin.weight, [-342, -1, 340, 681, 1022, 339])


def test_halves_go_up() -> None:
    """Levels 0 and 2 make 0.5 and 1.5, and -2 and 0 make -1.5 and -0.5."""
    model = resize_of("BILINEAR", (1, 1, 2, 1), 1, 4)
    content = write_model(model)
    samples = np.array([[0.0, 2.0], [-2.0, 0.0]], np.float32).reshape(2, 1, 2, 1) * STEP
    for kernels, expected in {
        "xnnpack": [[0, 1, 2, 2], [-2, -1, 0, 0]],
        "builtin": [[0, 1, 2, 2], [-2, -2, -1, 0]],
    }.items():
        made = simulate_tensors(content, samples, kernels=kernels)[2]
        np.testing.assert_array_equal(made.reshape(2, 4), expected, err_msg=kernels)


@pytest.mark.parametrize("count", [5, 8, 19])
def test_an_input_is_rounded_as_both_kernels_do(count: int) -> None:
    """Halves of many steps, and what is next to them, in blocks of 8 and a rest."""
    rng = np.random.default_rng(count)
    for _ in range(20):
        step, zero_point = np.float32(10 ** rng.uniform(-4, 1)), rng.integers(-128, 128)
        model = graph_of("RELU", (1, count), (1, count))
        for tensor in model.subgraphs[0].tensors[1:3]:
            tensor.quantization = quantization([step], [zero_point], 0)
        content = write_model(model)
        halves = (rng.integers(-520, 521, (1, count)) * np.float32(0.5) * step).astype(
            np.float32
        )
        for samples in (halves, np.nextafter(halves, np.float32(np.inf))):
            made = {
                "xnnpack": run_all_tensors(content, samples),
                "builtin": run_builtin(content, samples),
            }
            for kernels, expected in made.items():
                found = simulate_tensors(content, samples, kernels=kernels)
                np.testing.assert_array_equal(found[1], expected[1], err_msg=kernels)
