"""The measurements of ``tools/benchmark.py host``: the model against this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats

from matar_tf import keras as matar
from matar_tf.artifact import Artifact
from matar_tf.keras._compat import keras
from matar_tf.policy import ALL_BITS, Policy
from matar_tf.pricing.model import estimate
from matar_tf.samplers import draw_policies
from matar_tf.targets import LitertBackend, load_target
from matar_tf.tflite._schema import CheckedModel
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.latency import measure_latencies
from tools.benchmarks.bars import Bar

__all__ = ["measure_host", "random_network", "random_networks"]

_L = keras.layers
_TARGET = "host_litert"
_MIN_RANK_CORRELATION = 0.9


def measure_host(*, seed: int, num_networks: int) -> Iterator[Bar]:
    """Yields the rank correlation of modelled and measured latency."""
    target = load_target(_TARGET)
    if not isinstance(target.backend, LitertBackend):
        raise TypeError(f"{_TARGET} is not measured")
    networks = [*random_networks(seed=seed, num_networks=num_networks)]
    modelled = [
        estimate(artifact.workload, policy, target).latency_ms
        for artifact, policy, _ in networks
    ]
    contents = [content for *_, content in networks]
    found = measure_latencies(
        contents,
        num_threads=target.backend.num_threads,
        num_repeats=target.backend.num_repeats,
    )
    measured = [one.median_ms for one in found]
    rank = float(np.corrcoef(stats.rankdata(modelled), stats.rankdata(measured))[0, 1])
    errors = np.array(modelled) / np.array(measured) - 1.0
    spread = max((one.high_ms - one.low_ms) / one.median_ms for one in found)
    worst = errors[np.argmax(np.abs(errors))]
    yield Bar(
        name=f"rank correlation of modelled with measured latency, {num_networks} "
        f"random networks of {min(measured):.3f} to {max(measured):.3f} ms",
        figure=f"{rank:.3f} (median error {100 * np.median(np.abs(errors)):.0f} %, "
        f"worst {100 * worst:+.0f} %; widest quartiles {100 * spread:.0f} %)",
        limit=f"at least {_MIN_RANK_CORRELATION}",
        held=rank >= _MIN_RANK_CORRELATION,
    )


def random_networks(
    *, seed: int, num_networks: int
) -> Iterator[tuple[Artifact, Policy, CheckedModel]]:
    """Yields random networks, a policy of each, and its file."""
    for number in range(num_networks):
        rng = np.random.default_rng([seed, number])
        model = matar.quantize_model(random_network(rng))
        samples = rng.normal(size=(16, *model.input_shape[1:]))
        matar.calibrate(model, samples.astype(np.float32))
        artifact = matar.package(model, include_network=False)
        if number % 2:
            policy = draw_policies(
                artifact.space, matar.IndependentSampler(), 1, int(rng.integers(2**31))
            )[0]
        else:
            policy = artifact.space.uniform(
                *(int(one) for one in rng.choice(ALL_BITS, 2))
            )
        yield artifact, policy, ModelBuilder(artifact).build(policy)


def random_network(rng: np.random.Generator) -> Any:
    """Returns an untrained float network of random depth, width and kinds of block."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(int(rng.integers(2**31)))
    size = int(rng.choice([16, 24, 32, 48, 64]))
    inputs = _L.Input((size, size, 3), name="image")
    channels = int(rng.choice([8, 16, 24, 32]))
    x = _norm_relu(_L.Conv2D(channels, 3, strides=2, padding="same")(inputs))
    for _ in range(int(rng.integers(1, 7))):
        channels = int(rng.choice([8, 16, 24, 32, 48, 64, 96]))
        strides = int(rng.choice([1, 1, 2])) if x.shape[1] > 4 else 1
        block = rng.choice(["conv", "separable", "residual"])
        if block == "conv":
            x = _norm_relu(_L.Conv2D(channels, 3, strides=strides, padding="same")(x))
        elif block == "separable":
            x = _norm_relu(_L.DepthwiseConv2D(3, strides=strides, padding="same")(x))
            x = _norm_relu(_L.Conv2D(channels, 1)(x))
        else:
            y = _norm_relu(_L.Conv2D(x.shape[-1], 3, padding="same")(x))
            x = _L.ReLU()(_L.Add()([x, y]))
    x = _L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, _L.Dense(10)(x))


def _norm_relu(x: Any) -> Any:
    return _L.ReLU()(_L.BatchNormalization()(x))
