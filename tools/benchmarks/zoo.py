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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from matar_tf import keras as matar
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
from matar_tf.tflite.evaluate import output_step
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.verify import verify
from tools.benchmarks.bars import Bar
from tools.benchmarks.zoo_networks import (
    NETWORKS,
    Network,
    build_float,
    kinds_of,
    random_samples,
)

__all__ = [
    "Agreement",
    "Row",
    "compare_outputs",
    "integer_share",
    "measure_by_name",
    "measure_network",
    "measure_zoo",
    "zoo_bars",
]

_T = TypeVar("_T")
_ROOT: Final = Path(__file__).resolve().parents[2]
_NUM_SAMPLES: Final = 384
_NUM_CALIBRATION: Final = 64
_NUM_VERIFIED: Final = 2
_BATCH: Final = 8  # of the step of training
_KERAS_BATCH: Final = 32
_LEAST_SHARE: Final = 0.99
_LEAST_DECIDED: Final = 200
_MAX_SECONDS: Final = 3600.0
_CHILD: Final = """
import sys
from tools.benchmarks.zoo import measure_by_name
measure_by_name(sys.argv[1], int(sys.argv[2]), sys.argv[3])
"""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A policy's file in LiteRT against the Keras network.

    Attributes:
      within: Values that are at most a level of the last grid apart.
      values: Values in all.
      same: Rows of outputs that are decided, and name the same class.
      decided: Rows whose two largest outputs are more than two levels apart.
      rows: Rows in all; 0 of a network that tells no classes apart.
      off: int8 tensors on which simulator and runtime differ.
      tensors: int8 tensors in all.
    """

    within: int
    values: int
    same: int = 0
    decided: int = 0
    rows: int = 0
    off: int = 0
    tensors: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one network.

    Attributes:
      name: Of the network.
      failure: What kept it from its end; empty if nothing did.
      kinds: Of its layers.
      macs: Multiply-accumulates of its file, and of these on int8 kernels.
      floats: Operators inside of the file that make floats.
      moved: Largest difference of outputs before it was saved and after.
      file_bytes: Of the file of w8a8.
      seconds: Of a processor: to quantize, to package and for a policy's file.
      agreements: By policy.
    """

    name: str
    failure: str = ""
    kinds: tuple[str, ...] = ()
    macs: tuple[int, int] = (0, 0)
    floats: int = 0
    moved: float = math.inf
    file_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    agreements: dict[str, Agreement] = field(default_factory=dict)

    def to_text(self) -> str:
        """Returns the row of the table."""
        if self.failure:
            return f"{self.name:19s} {self.failure}"
        share = f"{self.macs[1] / max(self.macs[0], 1):.0%}"
        seconds = "/".join(f"{one:.3g}" for one in self.seconds.values())
        size = f"{self.file_bytes / 1e3:.0f}"
        lines = [f"{self.name:19s} {share:>5s} {size:>8s} {seconds:>15s}"]
        lines[0] += f"  {', '.join(self.kinds)}"
        for policy, one in self.agreements.items():
            text = f"{policy:5s} {one.within / one.values:.2%} within a level"
            if one.rows:
                text += f", same class {one.same} of {one.decided} (of {one.rows})"
            text += f", simulator {one.tensors - one.off} of {one.tensors} tensors"
            lines.append(f"{'':19s} {text}")
        return "\n".join(lines)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Row:
        """Reads what `dataclasses.asdict` made."""
        agreements = {
            name: Agreement(**one) for name, one in document["agreements"].items()
        }
        pair = tuple(document["macs"])
        return cls(**{**document, "macs": pair, "agreements": agreements})


HEADER: Final = (
    f"{'network':19s} {'int8':>5s} {'kB':>8s} {'s':>15s}  kinds of layers\n"
    f"{'':19s} int8: of all MACs; s: processor seconds, quantize/package/file"
)


def measure_zoo(names: Sequence[str] | None, *, seed: int) -> Iterator[Bar]:
    """Prints a row for each network, and yields the bars of all.

    Args:
      names: Of `NETWORKS`; None for all.
      seed: Of weights, samples and the mixed policy.

    Raises:
      MatarError: If there is no such network.
    """
    for name in names or ():
        if name not in NETWORKS:
            raise MatarError(
                f"Expected names of networks, got {name!r}. "
                f"{did_you_mean(name, NETWORKS)}"
            )
    print(HEADER, flush=True)
    rows: list[Row] = []
    for name in names or NETWORKS:
        rows.append(_row_of_process(name, seed))
        print(rows[-1].to_text(), flush=True)
    yield from zoo_bars(rows)


def _row_of_process(name: str, seed: int) -> Row:
    """Measures a network in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "row.json"
        command = [sys.executable, "-c", _CHILD, name, str(seed), str(output)]
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


def measure_by_name(name: str, seed: int, output: str) -> None:
    """Measures a network and writes its row as a JSON file."""
    try:
        row = measure_network(name, NETWORKS[name], seed=seed)
    except MatarError as error:
        row = Row(name=name, failure=str(error))
    Path(output).write_text(json.dumps(asdict(row)), encoding="utf-8")


def measure_network(
    name: str, network: Network, *, seed: int, num_samples: int = _NUM_SAMPLES
) -> Row:
    """Quantizes, trains, saves, packages and exports a network, and runs its files.

    Raises:
      MatarError: If one of these is refused.
    """
    shape = network.build().input_shape[1:]
    samples = random_samples(shape, num_samples, network, seed=seed)
    model = build_float(network, samples, seed=seed)
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
    matar.calibrate(quantized, samples[:_NUM_CALIBRATION])
    _train_a_step(quantized, samples[:_BATCH], seed)
    moved = _moved_by_saving(quantized, samples[:_BATCH])
    artifact = timed("package", lambda: matar.package(quantized))
    builder = ModelBuilder(artifact)
    content = timed("file", lambda: builder.build(artifact.space.named("w8a8")))
    macs, floats = integer_share(content)
    agreements = {
        name: _agreement(
            quantized, builder.build(one), one, samples, network.is_classifier
        )
        for name, one in _policies(artifact.space, seed).items()
    }
    return Row(
        name=name,
        kinds=kinds_of(model),
        macs=macs,
        floats=floats,
        moved=moved,
        file_bytes=len(content),
        seconds=seconds,
        agreements=agreements,
    )


def _train_a_step(model: Any, samples: np.ndarray, seed: int) -> None:
    """Fits one batch: outputs of other samples are its targets."""
    targets = np.roll(model.predict(samples, verbose=0), 1, axis=0)
    model.compile(keras.optimizers.SGD(1e-4), "mse")
    model.fit(
        samples,
        targets,
        batch_size=len(samples),
        callbacks=[matar.PolicyRandomizer(seed=seed)],
        verbose=0,
    )


def _moved_by_saving(model: Any, samples: np.ndarray) -> float:
    """Returns the largest difference that saving and loading makes to outputs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.h5"
        model.save(path)
        loaded = matar.load_model(path)
    before, after = (one.predict(samples, verbose=0) for one in (model, loaded))
    return float(np.abs(before - after).max())


def _policies(space: PolicySpace, seed: int) -> dict[str, Policy]:
    found = {name: space.named(name) for name in ("w8a8", "w4a8")}
    (found["mixed"],) = draw_policies(space, matar.IndependentSampler(), 1, seed)
    return found


def _agreement(
    model: Any,
    content: bytes,
    policy: Policy,
    samples: np.ndarray,
    is_classifier: bool,
) -> Agreement:
    """Returns how a policy's file agrees with Keras, and the runtime with itself."""
    matar.set_policy(model, policy)
    expected = model.predict(samples, batch_size=_KERAS_BATCH, verbose=0)
    outputs = Runner(content).predict(samples)
    step = output_step(content)
    layers = verify(content, samples[:_NUM_VERIFIED]).layers
    return Agreement(
        **compare_outputs(outputs, expected, step, is_classifier=is_classifier),
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


def integer_share(content: bytes) -> tuple[tuple[int, int], int]:
    """Returns MACs of a file, those of int8 kernels, and operators that make floats.

    The one that makes the output is none of the latter.
    """
    model = parse_model(content)
    graph = model.subgraphs[0]
    integers = {schema.TensorType.INT8, schema.TensorType.INT4}
    total = on_integers = floats = 0
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
        macs = positions * math.prod(int(size) for size in kernel.shape)
        total += macs
        if {source.type, kernel.type, output.type} <= integers:
            on_integers += macs
    return (total, on_integers), floats


def zoo_bars(rows: Sequence[Row]) -> Iterator[Bar]:
    """Yields the bars of all rows; a network that failed counts in the first alone."""
    ended = [row for row in rows if not row.failure]
    yield Bar(
        name="networks that are quantized, fitted, saved, packaged and exported",
        figure=f"{len(ended)} of {len(rows)}",
        limit="all",
        held=len(ended) == len(rows),
    )
    if not ended:
        return
    moved = max(row.moved for row in ended)
    yield Bar(
        name="largest difference that saving and loading makes",
        figure=f"{moved:g}",
        limit="0",
        held=moved == 0,
    )
    least = min(row.macs[1] / max(row.macs[0], 1) for row in ended)
    num_floats = sum(row.floats for row in ended)
    yield Bar(
        name="MACs with integer kernels, and operators inside that make floats",
        figure=f"{least:.0%} at least, {num_floats}",
        limit="100 %, 0",
        held=least == 1.0 and not num_floats,
    )
    found = {
        f"{row.name}, {policy}": one
        for row in ended
        for policy, one in row.agreements.items()
    }
    yield _share_bar(
        "least share of values within a level of Keras'",
        {name: (one.within, one.values) for name, one in found.items()},
    )
    decided = {name: (one.same, one.decided) for name, one in found.items() if one.rows}
    if decided:
        what = "least share of decided samples of the same class"
        yield _share_bar(what, decided)
        fewest = min(decided, key=lambda name: decided[name][1])
        number = decided[fewest][1]
        yield Bar(
            name="fewest decided samples",
            figure=f"{number}, {fewest}",
            limit=f"at least {_LEAST_DECIDED}",
            held=number >= _LEAST_DECIDED,
        )
    off = {name: one.off for name, one in found.items() if one.off}
    yield Bar(
        name="int8 tensors on which simulator and runtime differ",
        figure=f"{sum(off.values())} of {sum(one.tensors for one in found.values())}"
        + "".join(f"; {name}: {number}" for name, number in off.items()),
        limit="0",
        held=not off,
    )


def _share_bar(what: str, counts: dict[str, tuple[int, int]]) -> Bar:
    shares = {name: part / max(whole, 1) for name, (part, whole) in counts.items()}
    worst = min(shares, key=shares.__getitem__)
    least = shares[worst]
    short = sum(share < _LEAST_SHARE for share in shares.values())
    return Bar(
        name=what,
        figure=f"{least:.2%}, {worst} ({short} of {len(shares)} short)",
        limit=f"at least {_LEAST_SHARE:.0%}",
        held=least >= _LEAST_SHARE,
    )
