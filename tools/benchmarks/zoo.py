"""The measurements of ``tools/benchmark.py zoo``: any network in, its file out.

Each network runs in a process of its own: memory is given back, and one that fails is
a row of the table that says why.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

import matar_tf
from matar_tf import keras as matar
from matar_tf.artifact import Artifact
from matar_tf.errors import MatarError, did_you_mean
from matar_tf.keras import keras
from matar_tf.policy import Policy
from matar_tf.samplers import draw_policies
from matar_tf.space import PolicySpace
from matar_tf.tflite._schema import (
    COMPUTE_OPS,
    op_name,
    parse_model,
    schema,
    source_of,
)
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import outputs_of
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.verify import verify
from tools.benchmarks.bars import Bar
from tools.benchmarks.zoo_networks import NETWORKS, Network
from tools.benchmarks.zoo_rows import (
    HEADER,
    NUM_EVALUATIONS,
    Agreement,
    Row,
    zoo_bars,
)
from tools.benchmarks.zoo_samples import (
    SOURCES,
    build_float,
    digest_of,
    digits_for,
    first,
    kinds_of,
    samples_for,
)

__all__ = [
    "compare_outputs",
    "integer_share",
    "measure_by_name",
    "measure_network",
    "measure_zoo",
]

_T = TypeVar("_T")
_ROOT: Final = Path(__file__).resolve().parents[2]
_NUM_SAMPLES: Final = 384
_NUM_CALIBRATION: Final = 64
_NUM_VERIFIED: Final = 2
_NUM_SEARCHED: Final = 16
_TARGET: Final = "host_litert"
_BATCH: Final = 8  # of the step of training
_KERAS_BATCH: Final = 32
_MAX_SECONDS: Final = 3600.0
_CHILD: Final = """
import sys
from tools.benchmarks.zoo import measure_by_name
measure_by_name(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
"""


def measure_zoo(
    names: Sequence[str] | None, *, seed: int, sources: Sequence[str] = SOURCES[:1]
) -> Iterator[Bar]:
    """Prints a row for each network, and yields the bars of all.

    Args:
      names: Of `NETWORKS`; None for all.
      seed: Of weights, samples and the mixed policy.
      sources: Of `SOURCES`: in what each network is made.

    Raises:
      MatarError: If there is no such network.
    """
    for name in names or ():
        if name not in NETWORKS:
            raise MatarError(
                f"Expected names of networks, got {name!r}. "
                f"{did_you_mean(name, NETWORKS)}"
            )
    for source in sources:
        if source not in SOURCES:
            raise MatarError(
                f"Expected sources of networks, got {source!r}. "
                f"{did_you_mean(source, SOURCES)}"
            )
    print(HEADER, flush=True)
    rows: list[Row] = []
    for name in names or NETWORKS:
        for source in sources:
            if source != SOURCES[0] and not NETWORKS[name].has_keras3:
                continue
            # A network of a file is that of the object, if nothing was lost.
            known = rows[-1] if source == SOURCES[2] and rows else None
            rows.append(_row_of_process(name, seed, source, known))
            print(rows[-1].to_text(), flush=True)
    yield from zoo_bars(rows)


def _row_of_process(name: str, seed: int, source: str, known: Row | None) -> Row:
    """Measures a network in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "row.json"
        words = [name, str(seed), str(output), source]
        if known is not None:
            words.append(str(Path(folder) / "known.json"))
            Path(words[-1]).write_text(json.dumps(asdict(known)), encoding="utf-8")
        command = [sys.executable, "-c", _CHILD, *words]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                check=False,
                cwd=_ROOT,
                text=True,
                timeout=_MAX_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return Row(name=name, failure=f"no end after {_MAX_SECONDS:.0f} s")
        if output.exists():
            return Row.from_json(json.loads(output.read_text(encoding="utf-8")))
    lines = done.stderr.strip().splitlines() or [""]
    return Row(name=name, failure=f"status {done.returncode}: {lines[-1]}")


def measure_by_name(
    name: str, seed: int, output: str, source: str, known: str | None = None
) -> None:
    """Measures a network and writes its row as a JSON file.

    Args:
      name: Of `NETWORKS`.
      seed: As that of `measure_network`.
      output: The file.
      source: As that of `measure_network`.
      known: File of a row that the network may be the same as.
    """
    other = None
    if known is not None:
        other = Row.from_json(json.loads(Path(known).read_text(encoding="utf-8")))
    try:
        row = measure_network(
            name, NETWORKS[name], seed=seed, source=source, known=other
        )
    except MatarError as error:
        row = Row(name=name, failure=str(error))
    Path(output).write_text(json.dumps(asdict(row)), encoding="utf-8")


def measure_network(
    name: str,
    network: Network,
    *,
    seed: int,
    source: str = SOURCES[0],
    num_samples: int = _NUM_SAMPLES,
    known: Row | None = None,
) -> Row:
    """Quantizes, trains, saves, packages and exports a network, and runs its files.

    A search for it is run, too.

    Args:
      name: What tables call it.
      network: What to build.
      seed: Of weights, samples and the mixed policy.
      source: In what it is made.
      num_samples: Number of samples.
      known: A row to copy if it is of the same layers and weights.

    Raises:
      MatarError: If one of these is refused.
    """
    samples: Any = samples_for(network.build(keras), num_samples, network, seed=seed)
    model, off = build_float(network, samples, seed=seed, source=source)
    made = digest_of(model)
    row_name = name if source == SOURCES[0] else f"{name} ({source})"
    if known is not None and known.made == made:
        return replace(known, name=row_name, off=off, same_as=known.name)
    seconds: dict[str, float] = {}

    def timed(what: str, function: Callable[[], _T]) -> _T:
        start = time.process_time()
        made = function()
        seconds[what] = time.process_time() - start
        return made

    quantized = timed(
        "quantize",
        lambda: matar.quantize_model(model, signed_inputs=network.low < 0),
    )
    matar.calibrate(quantized, first(samples, _NUM_CALIBRATION))
    if network.learns_digits:
        _fine_tune(quantized, digits_for(model, network), seed)
    else:
        _train_a_step(quantized, first(samples, _BATCH), seed)
    moved = _moved_by_saving(quantized, first(samples, _BATCH))
    artifact = timed("package", lambda: matar.package(quantized))
    builder = ModelBuilder(artifact)
    content = timed("file", lambda: builder.build(artifact.space.named("w8a8")))
    on_integers, floats = integer_share(content)
    agreements = {
        name: _agreement(
            quantized, builder.build(one), one, samples, network.is_classifier
        )
        for name, one in _policies(artifact.space, seed).items()
    }
    return Row(
        name=row_name,
        made=made,
        kinds=kinds_of(model),
        macs=(sum(one.macs for one in artifact.workload.layers), on_integers),
        least_share=network.integer_share,
        off=off,
        front=_searched(artifact, model, first(samples, _NUM_SEARCHED), seed),
        floats=floats,
        moved=moved,
        file_bytes=len(content),
        seconds=seconds,
        agreements=agreements,
    )


def _searched(artifact: Artifact, model: Any, samples: Any, seed: int) -> int:
    """Returns the number of policies of a front that is near to the float network."""
    outputs: Any = dict(
        zip(model.output_names, _predicted(model, samples), strict=True)
    )
    if len(outputs) == 1:
        (outputs,) = outputs.values()
    result = matar_tf.search(
        artifact,
        _TARGET,
        (samples, outputs),
        metrics=["mean_squared_error"],
        max_evaluations=NUM_EVALUATIONS,
        seed=seed,
    )
    return len(result.front)


def _train_a_step(model: Any, samples: Any, seed: int) -> None:
    """Fits one batch: outputs of other samples are its targets."""
    targets = [np.roll(one, 1, axis=0) for one in _predicted(model, samples)]
    model.compile(keras.optimizers.SGD(1e-4), "mse")
    model.fit(
        samples,
        targets,
        batch_size=_BATCH,
        callbacks=[matar.PolicyRandomizer(seed=seed)],
        verbose=0,
    )


def _fine_tune(model: Any, digits: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    """Fits a model to digits for an epoch."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    randomizer = matar.PolicyRandomizer(seed=seed)
    model.fit(*digits, batch_size=_KERAS_BATCH, callbacks=[randomizer], verbose=0)


def _moved_by_saving(model: Any, samples: Any) -> float:
    """Returns the largest difference that saving and loading makes to outputs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.h5"
        model.save(path)
        loaded = matar.load_model(path)
    before, after = (_predicted(one, samples) for one in (model, loaded))
    return max(
        float(np.abs(one - other).max())
        for one, other in zip(before, after, strict=True)
    )


def _predicted(model: Any, samples: Any) -> list[np.ndarray]:
    """Returns each output of a network."""
    found = model.predict(samples, batch_size=_KERAS_BATCH, verbose=0)
    return found if isinstance(found, list) else [found]


def _policies(space: PolicySpace, seed: int) -> dict[str, Policy]:
    found = {name: space.named(name) for name in ("w8a8", "w4a8")}
    (found["mixed"],) = draw_policies(space, matar.IndependentSampler(), 1, seed)
    return found


def _agreement(
    model: Any,
    content: bytes,
    policy: Policy,
    samples: Any,
    is_classifier: bool,
) -> Agreement:
    """Returns how a policy's file agrees with Keras, and the runtime with itself."""
    matar.set_policy(model, policy)
    expected = dict(zip(model.output_names, _predicted(model, samples), strict=True))
    found = Runner(content).predict(samples)
    found = found if isinstance(found, dict) else dict.fromkeys(expected, found)
    counts = Counter[str]()
    for one in outputs_of(content):
        name = one.name if len(expected) > 1 else model.output_names[0]
        counts += Counter(
            compare_outputs(
                found[name], expected[name], one.step, is_classifier=is_classifier
            )
        )
    layers = verify(content, first(samples, _NUM_VERIFIED)).layers
    return Agreement(
        **{"within": 0, **counts},
        off=sum(one.runtime_share > 0 for one in layers),
        tensors=len(layers),
    )


def compare_outputs(
    outputs: np.ndarray, expected: np.ndarray, step: float, *, is_classifier: bool
) -> dict[str, int]:
    """Returns the counts of an `Agreement` that outputs tell.

    Args:
      outputs: Of the file, ``[num_samples, ..., classes]``.
      expected: Of the network, of the same shape.
      step: Of the last grid.
      is_classifier: Whether the last axis tells classes apart.
    """
    off = np.abs(outputs.astype(np.float64) - expected)
    counts = {"within": int((off < 1.5 * step).sum()), "values": off.size}
    if is_classifier:
        rows = expected.reshape(-1, expected.shape[-1])
        second, largest = np.sort(rows, axis=-1)[:, -2:].T
        decided = largest - second > 2.5 * step
        same = rows.argmax(-1) == outputs.reshape(rows.shape).argmax(-1)
        counts["rows"] = len(rows)
        counts["decided"] = int(decided.sum())
        counts["same"] = int((same & decided).sum())
    return counts


def integer_share(content: bytes) -> tuple[int, int]:
    """Returns the MACs of int8 kernels in a file, and the operators that make floats.

    The one that makes the output is none of the latter.
    """
    model = parse_model(content)
    graph = model.subgraphs[0]
    integers = {schema.TensorType.INT8, schema.TensorType.INT4}
    on_integers = floats = 0
    for operator in graph.operators:
        name = op_name(model, operator)
        output = graph.tensors[operator.outputs[0]]
        is_last = int(operator.outputs[0]) in {int(one) for one in graph.outputs}
        floats += output.type == schema.TensorType.FLOAT32 and not is_last
        if name not in COMPUTE_OPS:
            continue
        source = graph.tensors[source_of(model, operator)]
        kernel = graph.tensors[operator.inputs[1]]
        # One position is a column of all of a kernel; a dense kernel has no places.
        places = source if name == "TRANSPOSE_CONV" else output
        positions = math.prod(int(size) for size in places.shape[:-1])
        if {source.type, kernel.type, output.type} <= integers:
            on_integers += positions * math.prod(int(size) for size in kernel.shape)
    return on_integers, floats
