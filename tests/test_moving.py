"""Operators that move or blend values compute in NumPy what both kernels do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fixtures.graphs import graph_of
from fixtures.kernels import run_builtin
from fixtures.operator_graphs import MOVES, resize_of

from matar_tf.tflite._schema import quantization, write_model
from matar_tf.tflite.bilinear import blend_of, builtin_blend_of
from matar_tf.tflite.simulator import simulate_tensors
from matar_tf.tflite.verify import run_all_tensors

STEP = 0.5
ALL, FOUR_BITS = (-128, 0), (112, 112)  # lowest level in int8, and zero point


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
