"""The measurements of ``tools/benchmark.py devices``: files at their true size.

Written for the shipped artifacts, CIFAR-10 and DS-CNN, whose weights no training has
seen: sizes depend on widths alone. What a file must be made of is counted in it: packed
weights, tables of values, and the rest, which every profile has.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

import matar_tf
from matar_tf.artifact import Artifact
from matar_tf.data import Data, load_data
from matar_tf.policy import Policy
from matar_tf.samplers import IndependentSampler, draw_policies
from matar_tf.tflite._decoding import DECODE
from matar_tf.tflite._schema import parse_model, parse_stored, text_of
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.simulator import simulate
from tools.benchmarks.bars import Bar

__all__ = ["measure_devices"]

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_RESNET8: Final = _ROOT / "recipes/artifacts/cifar10_resnet8.matar"
_INT8_BYTES: Final = 94_048  # of ResNet-8's int8 file, of any width
# Largest files of ResNet-8, by policy.
_LIMITS: Final = {
    "w2a2": 43_500,
    "w3a3": 53_500,
    "w4a4": 60_000,  # which INT4 would take
    "w5a8": 79_500,
    "w6a8": _INT8_BYTES,
    "w7a8": _INT8_BYTES,
    "w8a8": _INT8_BYTES,
}

_MOST_OVER: Final = 1.15  # times weights, tables and rest
_NUM_SEARCHED: Final = 5
_KEYWORDS_SHAPE: Final = (49, 10, 1)  # of MLPerf Tiny's keyword spotting
_NUM_KEYWORDS: Final = 12
_TARGET: Final = "mpic"
_SEARCH_SAMPLES: Final = 200
_SEARCH_EVALUATIONS: Final = 40
_BATCH: Final = 100


def measure_devices(data_spec: str, *, num_samples: int) -> Iterator[Bar]:
    """Yields one bar after the other as it is measured.

    Args:
      data_spec: The data of `load_data`; CIFAR-10 for the bars.
      num_samples: How many images outputs are compared on.
    """
    artifact = matar_tf.load_artifact(_RESNET8)
    data = load_data(data_spec, training=False)
    yield from _sizes(artifact)
    searched = _searched(artifact)
    yield from _shares("ResNet-8", artifact, searched)
    dscnn = _dscnn()
    drawn = draw_policies(dscnn.space, IndependentSampler(), _NUM_SEARCHED, 1)
    uniform = {name: dscnn.space.named(name) for name in _LIMITS}
    mixed = {f"mixed {number}": one for number, one in enumerate(drawn)}
    yield from _shares("DS-CNN", dscnn, {**uniform, **mixed})
    compared = {name: artifact.space.named(name) for name in _LIMITS} | searched
    yield from _outputs(artifact, compared, data.x_test[:num_samples])
    yield _searched_is_deployed(artifact, data)


def _sizes(artifact: Artifact) -> Iterator[Bar]:
    """Yields the size of each uniform policy's file."""
    builder = ModelBuilder(artifact)
    for name, limit in _LIMITS.items():
        policy = artifact.space.named(name)
        most = min(limit, len(builder.build(policy)))
        size = len(builder.build(policy, profile="tflm"))
        yield Bar(
            name=f"tflm: ResNet-8 {name}, bytes",
            figure=f"{size:,}",
            limit=f"at most {most:,}",
            held=size <= most,
        )


def _searched(artifact: Artifact) -> dict[str, Policy]:
    """Returns policies of a front that the developer's measurements predict."""
    found = matar_tf.search(artifact, _TARGET, max_evaluations=100, progress=False)
    front = [one.policy for one in found.front]
    places = np.linspace(0, len(front) - 1, _NUM_SEARCHED).round().astype(int)
    return {f"searched {place}": front[place] for place in places}


def _dscnn() -> Artifact:
    """Returns DS-CNN with random weights."""
    from matar_tf import keras as matar
    from recipes.models import mlperf_tiny_dscnn

    matar.keras.utils.set_random_seed(0)
    network = mlperf_tiny_dscnn(_KEYWORDS_SHAPE, _NUM_KEYWORDS)
    model = matar.quantize_model(network)
    samples = np.random.default_rng(0).normal(size=(32, *_KEYWORDS_SHAPE))
    matar.calibrate(model, samples.astype(np.float32))
    return matar.package(model, include_network=False)


def _shares(
    network: str, artifact: Artifact, policies: Mapping[str, Policy]
) -> Iterator[Bar]:
    """Yields how much larger than their parts files are, and than int8 ones."""
    builder = ModelBuilder(artifact)
    ratios: dict[str, float] = {}
    over: dict[str, float] = {}
    for name, policy in policies.items():
        packed = builder.build(policy, profile="tflm")
        plain = builder.build(policy)
        ratios[name] = len(packed) / _parts(artifact, policy, packed, plain)
        over[name] = len(packed) / len(plain)
    for what, found, most in (
        ("(weights + rest + tables)", ratios, _MOST_OVER),
        ("int8", over, 1.0),
    ):
        worst = max(found, key=lambda name: found[name])
        yield Bar(
            name=f"tflm: {network}, {len(found)} policies, size over {what}",
            figure=f"{found[worst]:.3f} ({worst})",
            limit=f"at most {most}",
            held=found[worst] <= most,
        )


def _parts(artifact: Artifact, policy: Policy, packed: bytes, plain: bytes) -> float:
    """Returns the bytes of packed weights, of tables, and of all that is no weight."""
    layers = artifact.parameters.layers
    weights = sum(
        layers[name].kernel.size * policy.weights[name] / 8 for name in layers
    )
    model = parse_model(plain)
    kernels = {
        one.buffer
        for one in model.subgraphs[0].tensors
        if text_of(one.name).endswith("/kernel")
    }
    rest = len(plain) - sum(len(model.buffers[index].data) for index in kernels)
    stored = parse_stored(packed)
    names = [text_of(one.customCode) for one in stored.operatorCodes]
    tables = {
        stored.subgraphs[0].tensors[int(one.inputs[1])].buffer
        for one in stored.subgraphs[0].operators
        if names[one.opcodeIndex] == DECODE
    }
    return weights + rest + sum(len(stored.buffers[one].data) for one in tables)


def _outputs(
    artifact: Artifact, policies: Mapping[str, Policy], samples: np.ndarray
) -> Iterator[Bar]:
    """Yields on how many outputs plain file or simulator differ from the compressed."""
    builder = ModelBuilder(artifact)
    unlike, unsimulated = 0, 0
    for policy in tqdm(policies.values(), desc="Comparing"):
        content = builder.build(policy, profile="tflm")
        found = Runner(content, runtime="tflm").predict(samples)
        plain = Runner(builder.build(policy), runtime="tflm").predict(samples)
        unlike += int((found != plain).sum())
        for start in range(0, len(samples), _BATCH):
            part = slice(start, start + _BATCH)
            expected = simulate(content, samples[part], kernels="tflm")
            unsimulated += int((found[part] != expected).sum())
    for what, count in (("its int8 file", unlike), ("the simulator", unsimulated)):
        yield Bar(
            name=f"tflm: outputs unlike {what}'s, {len(policies)} policies, "
            f"{len(samples)} images",
            figure=f"{count}",
            limit="0",
            held=count == 0,
        )


def _searched_is_deployed(artifact: Artifact, data: Data) -> Bar:
    """Returns whether files have the accuracy that a search of them reports."""
    few = Data(
        x_test=data.x_test[:_SEARCH_SAMPLES], y_test=data.y_test[:_SEARCH_SAMPLES]
    )
    found = matar_tf.search(
        artifact,
        _TARGET,
        few,
        profile="tflm",
        max_evaluations=_SEARCH_EVALUATIONS,
    )
    unlike = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(found.front):
            path = Path(folder) / f"{number}.tflite"
            matar_tf.export(artifact, one.policy, path, profile="tflm")
            measured = matar_tf.evaluate(path, few, runtime="tflm")
            unlike += measured["accuracy"] != one.metrics["accuracy"]
    return Bar(
        name=f"tflm: files less or more accurate than searched, of {len(found.front)}",
        figure=f"{unlike}",
        limit="0",
        held=unlike == 0,
    )
