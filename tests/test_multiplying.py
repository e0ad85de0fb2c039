"""Grouped, dilated and transposed convolutions compute in NumPy what kernels do."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.kernels import run_builtin
from fixtures.operator_graphs import (
    MULTIPLICATIONS,
    filled,
    samples_for,
    transposed,
)

from matar_tf.tflite._schema import parse_model, quantization, write_model
from matar_tf.tflite.profiles import PROFILES
from matar_tf.tflite.simulator import simulate_tensors
from matar_tf.tflite.verify import run_all_tensors


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", MULTIPLICATIONS)
def test_every_profile_is_simulated_to_the_level(name: str, bits: int) -> None:
    for profile in PROFILES:
        content = filled(name, bits, profile, 112)
        samples = samples_for(content, 112, 112)
        runtime = PROFILES[profile].runtime
        made = run_all_tensors(content, samples, runtime=runtime)[2]
        assert len(np.unique(made)) > 10
        kernels = "tflm" if runtime == "tflm" else "xnnpack"
        found = simulate_tensors(content, samples, kernels=kernels)[2]
        np.testing.assert_array_equal(found, made, err_msg=profile)


@pytest.mark.parametrize(("lowest", "zero_point"), [(-128, -3), (96, 112)])
@pytest.mark.parametrize("name", MULTIPLICATIONS)
def test_builtin_kernels_are_reproduced(
    name: str, lowest: int, zero_point: int
) -> None:
    """That of transposed convolutions takes as many samples as the file says."""
    content = filled(name, 8, "int8", zero_point)
    batch = 1 if name.startswith("transposed") else 4
    samples = samples_for(content, lowest, zero_point)
    for at in range(0, len(samples), batch):
        part = samples[at : at + batch]
        made = run_builtin(content, part)[2]
        found = simulate_tensors(content, part, kernels="builtin")[2]
        np.testing.assert_array_equal(found, made)


def test_a_transposed_convolution_by_hand() -> None:
    """Pixels 1 and 2, two apart, through the window 1 10 100; same cuts the end off."""
    model = transposed((1, 1, 2, 1), (1, 1, 3, 1), (1, 4), (1, 2), has_bias=False)
    graph = model.subgraphs[0]
    content = write_model(model)
    model = parse_model(content)
    graph = model.subgraphs[0]
    model.buffers[graph.tensors[3].buffer].data = np.array([1, 10, 100], np.uint8)
    graph.tensors[3].quantization = quantization([1.0], [0], 0)
    for index in (1, 2):
        graph.tensors[index].quantization = quantization([1.0], [0], 0)
    content = write_model(model)
    samples = np.array([1.0, 0.0, 0.0, 1.0, 1.0, -1.0], np.float32)
    samples = samples.reshape(3, 1, 2, 1)
    expected = [[1, 10, 100, 0], [0, 0, 1, 10], [1, 10, 99, -10]]
    for made in (simulate_tensors(content, samples), run_all_tensors(content, samples)):
        np.testing.assert_array_equal(made[2].reshape(3, 4), expected)
