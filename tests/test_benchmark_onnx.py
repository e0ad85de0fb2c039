"""What the benchmark of ONNX files says of what it compares."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.samples import image_samples, net_artifact

from tools.benchmarks.devices_onnx import (
    Tally,
    compare_with_litert,
    compare_with_simulator,
)
from tools.benchmarks.qonnx_run import Difference

POOL, SUM = ("MaxPool",), ("Conv", "Mul", "IntQuant")


def difference(
    operators: tuple[str, ...], share: float, largest: float = 1.0
) -> Difference:
    return Difference(operators=operators, share=share, largest=largest)


@pytest.mark.parametrize(
    ("found", "held"),
    [
        ([difference(SUM, 0.0, 0.0)], [True, True]),
        ([difference(SUM, 1e-4)], [True, True]),
        ([difference(SUM, 1.1e-4)], [False, True]),
        ([difference(SUM, 1e-5, 2.0)], [False, True]),
        ([difference(POOL, 1e-6), difference(SUM, 0.0, 0.0)], [True, False]),
    ],
)
def test_layers_are_judged(found: list[Difference], held: list[bool]) -> None:
    tally = Tally()
    tally.add(found, np.ones(10, bool))
    bars = list(tally.bars("net"))
    assert [bar.held for bar in bars] == [*held, True]
    if any(one.share for one in found):
        assert "+".join(found[0].operators) in bars[0].figure


@pytest.mark.parametrize(("wrong", "held"), [(1, True), (2, False)])
def test_classes_are_judged(wrong: int, held: bool) -> None:
    tally = Tally()
    for part in range(2):
        tally.add([], np.arange(500) >= (wrong if part else 0))
    assert [bar.held for bar in tally.bars("net")][-1] == held


def test_a_network_is_compared() -> None:
    artifact, samples = net_artifact("kernels"), image_samples()
    policies = [artifact.space.policy(one) for one in ("w8a8", "w2a3")]
    tally = compare_with_simulator(artifact, policies, samples)
    assert all(bar.held for bar in tally.bars("kernels"))
    assert tally.layers == 2 * 10
    assert tally.same == (64, 64)
    assert compare_with_litert(artifact, policies[0], samples) >= 0.96
