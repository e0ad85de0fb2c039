"""Files of ONNX beside those for LiteRT: QONNX level for level, QDQ class for class.

Each layer of a QONNX file reads what the simulator made before it, on the executor of
the package qonnx; the whole file is run on its own, too. Files in QDQ form are run by
onnxruntime as it optimizes them, and compared with LiteRT.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.data import load_data
from matar_tf.onnx.export import onnx_network
from matar_tf.policy import ALL_BITS, Policy
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import inputs_of, outputs_of
from matar_tf.tflite.fitting_data import for_inputs
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.simulator import simulate_tensors
from tools.benchmarks.bars import Bar
from tools.benchmarks.hls4ml_run import has_hls4ml, levels_apart
from tools.benchmarks.qonnx_run import (
    Difference,
    channels_first,
    layer_differences,
    run_qonnx,
)

__all__ = ["Tally", "compare_with_litert", "compare_with_simulator", "measure_onnx"]

_ROOT: Final = Path(__file__).parents[2]
_SHIPPED: Final = _ROOT / "recipes/artifacts"
_TESTS: Final = _ROOT / "tests/data"
_IN_HLS4ML: Final = {"dense": "w4a4", "six_convs": "w4a4", "residual_bn_wide": "w3a4"}
_NUM_IN_HLS4ML: Final = 32
_NUM_POLICIES: Final = 20
_NUM_IMAGES: Final = 200
_BATCH: Final = 500
_SPECTRUM, _NUM_WORDS = (49, 10, 1), 12  # what DS-CNN takes, and tells apart
_MIN_EQUAL: Final = 0.9999
_MIN_SAME: Final = 0.999
# Nodes that add products or values up, whose float32 sums may round otherwise.
_SUMS: Final = frozenset(
    {"Add", "AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "MatMul"}
    | {"ReduceMean", "Softmax", "Sub"}
)


@dataclass
class Tally:
    """What was compared of QONNX files.

    Attributes:
      layers: How many layers.
      least_equal: Smallest share of equal levels that a layer has.
      largest: By how much a level differs at most.
      unequal: Operators of layers without a sum that differ.
      differing: Operators of all layers that differ.
      same: How often both named the same class, and of how many.
    """

    layers: int = 0
    least_equal: float = 1.0
    largest: float = 0.0
    unequal: set[str] = field(default_factory=set[str])
    differing: set[str] = field(default_factory=set[str])
    same: tuple[int, int] = (0, 0)

    def add(self, found: Iterable[Difference], same: np.ndarray) -> None:
        """Adds the layers of a file, and whether it named the same classes."""
        for one in found:
            self.layers += 1
            self.least_equal = min(self.least_equal, 1 - one.share)
            self.largest = max(self.largest, one.largest)
            if one.share > 0:
                kind = "+".join(one.operators)
                self.differing.add(kind)
                if not _SUMS & {*one.operators}:
                    self.unequal.add(kind)
        self.same = self.same[0] + int(same.sum()), self.same[1] + same.size

    def bars(self, name: str) -> Iterator[Bar]:
        """Yields what the comparison must keep to."""
        where = f" ({', '.join(sorted(self.differing))})" if self.differing else ""
        yield Bar(
            name=f"QONNX, {name}: equal levels of each of {self.layers} layers",
            figure=f"{self.least_equal:.4%} at least, off by {self.largest:g}{where}",
            limit=f"{_MIN_EQUAL:.2%}, off by 1",
            held=self.least_equal >= _MIN_EQUAL and self.largest <= 1,
        )
        yield Bar(
            name=f"QONNX, {name}: layers without a sum that differ",
            figure=", ".join(sorted(self.unequal)) or "none",
            limit="none",
            held=not self.unequal,
        )
        share = self.same[0] / self.same[1]
        yield Bar(
            name=f"QONNX, {name}: the same class as the simulator",
            figure=f"{share:.3%} of {self.same[1]}",
            limit=f"{_MIN_SAME:.1%}",
            held=share >= _MIN_SAME,
        )


def measure_onnx(data: str, *, seed: int = 0) -> Iterator[Bar]:
    """Compares ONNX files of the shipped networks, and of a DS-CNN, with the others.

    Args:
      data: CIFAR-10, as `load_data` takes it.
      seed: Of the mixed policies, and of the DS-CNN, which is calibrated on noise.
    """
    resnet8 = read_artifact(_SHIPPED / "cifar10_resnet8.matar")
    given = for_inputs(load_data(data, training=False), resnet8.template)
    images = np.asarray(given.x_test)
    pairs = itertools.product(ALL_BITS, ALL_BITS)
    policies = [resnet8.space.policy(f"w{weight}a{other}") for weight, other in pairs]
    tally = compare_with_simulator(resnet8, policies, images[:_NUM_IMAGES])
    yield from tally.bars(f"ResNet-8, {len(policies)} pairs of widths")
    resnet20 = read_artifact(_SHIPPED / "cifar10_resnet20.matar")
    for name, artifact, samples in (
        ("ResNet-20", resnet20, images[:_NUM_IMAGES]),
        ("DS-CNN", *_random_dscnn(seed)),
    ):
        policies = _mixed_policies(artifact, seed)
        tally = compare_with_simulator(artifact, policies, samples)
        yield from tally.bars(f"{name}, {len(policies)} mixed policies")
    yield from _in_hls4ml(seed)
    share = compare_with_litert(resnet8, resnet8.space.policy("w8a8"), images)
    yield Bar(
        name="ONNX in QDQ form, ResNet-8 at w8a8: the same class as LiteRT",
        figure=f"{share:.3%} of {len(images)}",
        limit=f"{_MIN_SAME:.1%}",
        held=share >= _MIN_SAME,
    )


def compare_with_simulator(
    artifact: Artifact, policies: Iterable[Policy], samples: np.ndarray
) -> Tally:
    """Compares QONNX files of policies with the simulator, layer by layer."""
    builder, tally = ModelBuilder(artifact), Tally()
    for policy in policies:
        content = builder.build(policy)
        simulated = simulate_tensors(content, samples)
        network = onnx_network(artifact, builder, policy, "qonnx", batch=len(samples))
        found = layer_differences(network, samples, simulated)
        same = np.ones(len(samples), bool)
        if any(one.share for one in found.values()):  # else they read what was made
            made = run_qonnx(network, samples)
            for one in outputs_of(content):
                classes = simulated[one.index].argmax(-1)
                same &= made[one.name].argmax(-1) == classes
        tally.add(found.values(), same)
    return tally


def compare_with_litert(
    artifact: Artifact, policy: Policy, samples: np.ndarray
) -> float:
    """Returns the share of samples of which onnxruntime names LiteRT's class."""
    import onnxruntime

    builder = ModelBuilder(artifact)
    expected = Runner(builder.build(policy)).predict(samples)
    content = onnx_network(artifact, builder, policy, "onnx").model.SerializeToString()
    session = onnxruntime.InferenceSession(content)
    name = session.get_inputs()[0].name
    same = 0
    for at in range(0, len(samples), _BATCH):
        part = slice(at, at + _BATCH)
        given = {name: channels_first(samples[part])}
        found = np.asarray(session.run(None, given)[0])
        same += int((found.argmax(-1) == expected[part].argmax(-1)).sum())
    return same / len(samples)


def _in_hls4ml(seed: int) -> Iterator[Bar]:
    """Compares small networks of the tests, if hls4ml is installed."""
    if not has_hls4ml():
        return
    for name, policy in _IN_HLS4ML.items():
        artifact = read_artifact(_TESTS / f"{name}.matar")
        (one,) = inputs_of(artifact.template)
        rng = np.random.default_rng(seed)
        samples = rng.normal(size=(_NUM_IN_HLS4ML, *one.shape)).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            chosen = artifact.space.policy(policy)
            apart = levels_apart(artifact, chosen, samples, Path(folder))
        yield Bar(
            name=f"hls4ml's C simulation, {name} at {policy}: levels off at most",
            figure=f"{apart:.2g}",
            limit="0.5",
            held=apart < 0.5,
        )


def _mixed_policies(artifact: Artifact, seed: int) -> list[Policy]:
    """Returns policies with a width drawn for each entry."""
    rng, space = np.random.default_rng(seed), artifact.space

    def drawn(choices: Any) -> dict[str, int]:
        return {
            name: int(rng.choice([bits for bits in widths if bits in ALL_BITS]))
            for name, widths in choices.items()
        }

    return [
        Policy(weights=drawn(space.weights), activations=drawn(space.activations))
        for _ in range(_NUM_POLICIES)
    ]


def _random_dscnn(seed: int) -> tuple[Artifact, np.ndarray]:
    """Returns a DS-CNN that is calibrated on noise, and such noise."""
    from matar_tf.keras import calibrate, keras, package, quantize_model
    from recipes.models import mlperf_tiny_dscnn

    keras.utils.set_random_seed(seed)
    samples = np.random.default_rng(seed).normal(size=(_NUM_IMAGES, *_SPECTRUM))
    samples = samples.astype(np.float32)
    model = quantize_model(mlperf_tiny_dscnn(_SPECTRUM, _NUM_WORDS))
    calibrate(model, samples)
    return package(model, include_network=False), samples
