"""The measurements of ``tools/benchmark.py zoo_size``: large networks' price.

Seconds are of processors, so that what else runs on a machine matters little. No figure
depends on what a network has learned: weights are random.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from matar_tf import keras as matar
from matar_tf.artifact import Artifact, write_artifact
from matar_tf.keras import keras
from matar_tf.keras._compat import tfmot
from matar_tf.keras.layers import MultiBitBatchNormalization
from matar_tf.keras.quantizers import wrapper
from matar_tf.samplers import draw_policies
from matar_tf.tflite.build import ModelBuilder
from tools.benchmarks.bars import Bar, peak_megabytes
from tools.benchmarks.search import overhead_ms
from tools.benchmarks.search_bench import target_problem
from tools.benchmarks.training import interleaved, training_step

__all__ = ["at_most", "measure_zoo_size", "with_noise_for_statistics"]

_T = TypeVar("_T")
_SIZE, _CLASSES = 224, 1000
_TARGET: Final = "bismo_ultra96"
_NUM_CALIBRATION: Final = 16  # samples
_NUM_FILES: Final = 5
_NUM_SEARCHED, _NUM_EVALUATIONS = 16, 12  # samples and policies of the search
_STEP_SIZE, _STEP_CLASSES, _STEP_BATCH = 96, 10, 32


def measure_zoo_size(*, seed: int) -> Iterator[Bar]:
    """Yields the bars of MobileNetV2 and ResNet50.

    Args:
      seed: Of weights, samples and policies.
    """
    yield from _mobilenet(seed)
    yield from _resnet(seed)
    yield _step(seed)


def _mobilenet(seed: int) -> Iterator[Bar]:
    what = f"MobileNetV2, {_SIZE} x {_SIZE}, {_CLASSES} classes"
    network = _build("MobileNetV2", _SIZE, _CLASSES, seed)
    seconds, model = _timed(lambda: matar.quantize_model(network))
    yield at_most(f"{what}: quantize", seconds, 60.0, "s")
    matar.calibrate(model, _images(_NUM_CALIBRATION, _SIZE, seed))
    with_noise_for_statistics(model, seed)
    seconds, artifact = _timed(lambda: matar.package(model))
    yield at_most(f"{what}: package", seconds, 20.0, "s")
    yield at_most(f"{what}: a policy's file", _file_seconds(artifact, seed), 0.2, "s")
    problem = target_problem(artifact.workload, artifact.space, _TARGET)
    overhead = overhead_ms(problem, time.process_time)
    yield at_most(
        f"{what}: a search on {_TARGET} beside the evaluations, for each",
        overhead,
        3.0,
        "ms",
    )
    with tempfile.TemporaryDirectory() as folder:
        path, weights = Path(folder) / "net.matar", Path(folder) / "float.weights.h5"
        write_artifact(artifact, path)
        network.save_weights(weights)
        ratio = path.stat().st_size / weights.stat().st_size
    yield at_most(
        f"{what}: artifact over float weights, statistics of no pattern",
        ratio,
        4.0,
        "times",
    )


def _resnet(seed: int) -> Iterator[Bar]:
    what = f"ResNet50, {_SIZE} x {_SIZE}, {_CLASSES} classes"
    network = _build("ResNet50", _SIZE, _CLASSES, seed)
    model = matar.quantize_model(network)
    matar.calibrate(model, _images(_NUM_CALIBRATION, _SIZE, seed))
    with_noise_for_statistics(model, seed)
    artifact = matar.package(model)
    yield at_most(f"{what}: a policy's file", _file_seconds(artifact, seed), 0.5, "s")
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / "net.matar", Path(folder) / "data.npz"
        write_artifact(artifact, path)
        labels = np.arange(_NUM_SEARCHED) % _CLASSES
        np.savez(data, x_test=_images(_NUM_SEARCHED, _SIZE, seed), y_test=labels)
        megabytes = peak_megabytes(
            [
                *(sys.executable, "-m", "tools.search", f"--artifact={path}"),
                *(f"--data={data}", f"--targets={_TARGET}", "--compare=none"),
                *("--sensitivity=false", f"--max_evaluations={_NUM_EVALUATIONS}"),
                *("--population_size=4", f"--output={folder}/run"),
            ]
        )
    yield at_most(
        f"{what}: peak memory of a search on {_NUM_SEARCHED} samples",
        megabytes / 1e3,
        1.5,
        "GB",
    )


def _step(seed: int) -> Bar:
    network = _build("MobileNetV2", _STEP_SIZE, _STEP_CLASSES, seed)
    images = _images(_STEP_BATCH, _STEP_SIZE, seed)
    batch = images, np.arange(_STEP_BATCH) % _STEP_CLASSES
    ours = matar.quantize_model(network)
    matar.calibrate(ours, images)
    matar.set_policy(ours, "w4a8")
    theirs = tfmot.quantization.keras.quantize_model(network)
    steps = {
        "ours": training_step(ours, batch, None),
        "theirs": training_step(theirs, batch, None),
    }
    seconds = interleaved(steps)
    return at_most(
        f"a step of one policy of MobileNetV2, {_STEP_SIZE} x {_STEP_SIZE}, batch of "
        f"{_STEP_BATCH} ({1e3 * seconds['ours']:.0f} ms), over one of tfmot's 8-bit "
        "QAT",
        seconds["ours"] / seconds["theirs"],
        1.15,
        "times",
    )


def at_most(what: str, value: float, most: float, unit: str) -> Bar:
    """Returns the bar of a figure that is to be small."""
    return Bar(
        name=what,
        figure=f"{value:.3g} {unit}",
        limit=f"at most {most:g}",
        held=value <= most,
    )


def with_noise_for_statistics(model: Any, seed: int) -> None:
    """Gives all rows of all batch norms statistics that nothing can compress.

    As training leaves them, but for what is alike among their rows.
    """
    rng = np.random.default_rng(seed)
    for layer in map(wrapper.inner_layer, model.layers):
        if isinstance(layer, MultiBitBatchNormalization):
            mean, variance = layer.moving_mean, layer.moving_variance
            mean.assign(rng.normal(size=mean.shape))
            variance.assign(rng.uniform(0.9, 1.1, variance.shape))


def _build(name: str, size: int, classes: int, seed: int) -> Any:
    keras.utils.set_random_seed(seed)
    # The softmax is left to the loss, as both trainings have it.
    return getattr(keras.applications, name)(
        weights=None,
        input_shape=(size, size, 3),
        classes=classes,
        classifier_activation=None,
    )


def _images(number: int, size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1.0, 1.0, (number, size, size, 3)).astype(np.float32)


def _file_seconds(artifact: Artifact, seed: int) -> float:
    """Returns what a file takes, of several policies the median."""
    builder = ModelBuilder(artifact)
    policies = draw_policies(
        artifact.space, matar.IndependentSampler(), _NUM_FILES, seed
    )
    return float(
        np.median([_timed(lambda one=one: builder.build(one))[0] for one in policies])
    )


def _timed(function: Callable[[], _T]) -> tuple[float, _T]:
    """Returns the processor seconds of a call, and what it returned."""
    start = time.process_time()
    made = function()
    return time.process_time() - start, made
