"""The measurements of ``tools/benchmark.py targets``: bars on the published figures."""

from __future__ import annotations

import csv
import math
import timeit
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from matar_tf.artifact import Artifact
from matar_tf.errors import DataError
from matar_tf.pricing.model import CostModel, estimate
from matar_tf.run.costs import PolicyCosts
from matar_tf.targets import load_target
from matar_tf.tflite.vela import has_vela
from tools.benchmarks.bars import Bar
from tools.benchmarks.points import (
    TINY_LATENCY_MS,
    VELA_CYCLES,
    Point,
    bitfusion_cycles,
    kernel_cycles,
    published_bitfusion,
)
from tools.benchmarks.reference_bitfusion import (
    BATCH_SIZE,
    bitfusion_networks,
)
from tools.benchmarks.reference_networks import (
    mobilenet_v2,
    resnet8,
    uniform_policy,
)

__all__ = ["check_points", "compare_with_vela", "measure_reference_data"]

_HAQ_TABLE = "haq_bismo_mobilenetv2_batch16.npy"
_BITFUSION_TABLE = "bitfusion_sweep.csv"
_MAX_BITS = 8


def check_points(found: Sequence[Point]) -> Iterator[Bar]:
    """Yields the bars that need no further files."""
    for name in TINY_LATENCY_MS:
        yield _worst(found, name, f"{name}: MLPerf Tiny, worst of 4 networks", 0.21)
    yield _worst(found, "edge_tpu_coral", "edge_tpu_coral: worst of 4 networks", 0.21)
    for name in VELA_CYCLES:
        yield _worst(found, name, f"{name}: analytic model against Vela", 0.10)
    yield _worst(found, "bismo_haq", "bismo_haq: worst of 3 totals of HAQ", 0.066)
    yield _worst(found, "bitfusion_16x32", "bitfusion_16x32: worst of 8 networks", 0.08)
    yield _mpic_against_cortex_m4()
    yield _lookup_time()


def _mpic_against_cortex_m4() -> Bar:
    """Compares two cores as the abstract of MPIC's publication does."""
    workload = resnet8()
    policy = uniform_policy(workload, 8, 8)
    cycles = [
        estimate(workload, policy, load_target(name)).cycles
        for name in ("cortex_m4_cmsis_nn", "mpic")
    ]
    ratio = cycles[0] / cycles[1]
    return Bar(
        name="mpic: times fewer cycles than cortex_m4_cmsis_nn, ResNet-8 (arXiv "
        "2010.04073 names a range over kernels, against Cortex-M4 and M7)",
        figure=f"{ratio:.1f}",
        limit="within 3.6 and 11.7",
        held=3.6 <= ratio <= 11.7,
    )


def _worst(found: Sequence[Point], target: str, name: str, limit: float) -> Bar:
    latencies = [one for one in found if one.target == target and one.unit != "mJ"]
    worst = max(latencies, key=_size_of_error)
    return Bar(
        name=f"{name} ({worst.kind})",
        figure=f"{100 * worst.error:+.1f} % ({worst.network})",
        limit=f"at most {100 * limit:g} %",
        held=abs(worst.error) <= limit,
    )


def _size_of_error(point: Point) -> float:
    return abs(point.error)


def compare_with_vela(artifact: Artifact) -> Iterator[Bar]:
    """Yields the model's errors on an artifact's files, if Vela is installed."""
    if not has_vela():
        return
    names = artifact.space.uniform_names(mixed=True)
    policies = {
        name: artifact.space.named(name) for name in names if name.endswith("a8")
    } or {"widest": artifact.space.widest()}
    first = next(iter(policies))
    for name in VELA_CYCLES:
        target = load_target(name)
        compiled = PolicyCosts(artifact, target)
        errors: dict[str, float] = {}
        for policy_name, policy in policies.items():
            modelled = estimate(artifact.workload, policy, target).cycles
            errors[policy_name] = modelled / (compiled(policy)["cycles"] or 0.0) - 1.0
        worst = max(errors, key=lambda one: abs(errors[one]))
        yield Bar(
            name=f"{name}: analytic model against Vela on this artifact, worst of "
            f"{', '.join(policies)}",
            figure=f"{100 * errors[worst]:+.1f} % ({worst}; {first} "
            f"{100 * errors[first]:+.1f} %)",
            limit="at most 10 %",
            held=abs(errors[worst]) <= 0.10,
        )


def _lookup_time() -> Bar:
    """Times the sums that a search asks for, prices already in their tables."""
    workload = mobilenet_v2(100, bias=False)
    policy = uniform_policy(workload, 4, 4)
    model = CostModel(workload, load_target("bitfusion_16x32"))
    model.totals(policy)
    spent = min(timeit.repeat(lambda: model.totals(policy), number=200, repeat=10))
    num_layers = len(workload.layers)
    microseconds = spent / 200 * 1e6 * 50 / num_layers
    return Bar(
        name=f"cost of a policy, per 50 layers (MobileNet v2, {num_layers} layers)",
        figure=f"{microseconds:.1f} µs",
        limit="under 50 µs",
        held=microseconds < 50,
    )


def measure_reference_data(folder: str | Path) -> Iterator[Bar]:
    """Yields the bars on the two full tables.

    Args:
      folder: Holds the tables under the names of this project's documentation.

    Raises:
      DataError: If a table is missing.
    """
    yield from _haq_table(_existing(folder, _HAQ_TABLE))
    yield from _bitfusion_table(_existing(folder, _BITFUSION_TABLE))


def _existing(folder: str | Path, name: str) -> Path:
    path = Path(folder) / name
    if not path.is_file():
        raise DataError(f"Expected the table {name!r} in {str(folder)!r}, found none.")
    return path


def _haq_table(path: Path) -> Iterator[Bar]:
    """All entries of HAQ's table: [layer, weight bits - 1, activation bits - 1]."""
    table = np.load(path)
    workload = mobilenet_v2(100, bias=False)
    target = load_target("bismo_haq")
    ours = np.zeros(table.shape)
    for weights in range(_MAX_BITS):
        for inputs in range(_MAX_BITS):
            ours[:, weights, inputs] = kernel_cycles(
                workload, weights + 1, inputs + 1, target, BATCH_SIZE
            )
    entries = np.abs(ours / table - 1.0)
    networks = np.abs(ours.sum(axis=0) / table.sum(axis=0) - 1.0)
    rng = np.random.default_rng(0)
    choices = rng.integers(0, _MAX_BITS, size=(2, 2000, len(table)))
    layers = np.arange(len(table))
    theirs, modelled = (
        values[layers, choices[0], choices[1]].sum(axis=1) for values in (table, ours)
    )
    macs = np.array([one.macs for one in workload.layers if one.weights])
    bit_operations = (macs * (choices[0] + 1) * (choices[1] + 1)).sum(axis=1)
    rank = _rank_correlation(theirs, modelled)
    rank_bops = _rank_correlation(theirs, bit_operations)
    for name, errors, limit in (
        ("an entry", entries, 0.066),
        ("a network of uniform widths", networks, 0.018),
    ):
        figure = float(errors.mean())
        yield Bar(
            name=f"bismo_haq: mean error of {name}, of {errors.size} (calibration)",
            figure=f"{100 * figure:.2f} %, worst {100 * errors.max():.1f} %",
            limit=f"at most {100 * limit:g} %",
            held=round(figure, 3) <= limit,
        )
    yield Bar(
        name="bismo_haq: rank correlation over 2000 random policies (calibration)",
        figure=f"{rank:.4f} (bit operations alone: {rank_bops:.2f})",
        limit="at least 0.99",
        held=rank >= 0.99,
    )


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Returns Spearman's rank correlation."""
    ranks = (stats.rankdata(one), stats.rankdata(other))
    return float(np.corrcoef(*ranks)[0, 1])


def _bitfusion_table(path: Path) -> Iterator[Bar]:
    """All layers of the sweep over widths of the array and of the port."""
    base = load_target("bitfusion_16x32")
    networks = bitfusion_networks()
    errors: list[float] = []
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            target = published_bitfusion(
                base.model_copy(
                    update={
                        "compute": base.compute.model_copy(
                            update={"columns": int(row["M"])}
                        ),
                        "bandwidth": base.bandwidth
                        and base.bandwidth.model_copy(
                            update={
                                "dram_bits_per_cycle": float(
                                    row["Bandwidth (bits/cycle)"]
                                )
                            }
                        ),
                    }
                ),
                # The table's headers say bits; the simulator takes them as bytes.
                weight_bytes=int(row["WBUF Size (bits)"]),
                input_bytes=int(row["IBUF Size (bits)"]),
                output_bytes=int(row["OBUF Size (bits)"]),
            )
            name = row["Layer"].rpartition("/")[0]
            cycles = bitfusion_cycles(networks[row["Network"]], name, target)
            errors.append(abs(cycles / int(row["Cycles"]) - 1.0))
    mean = math.fsum(errors) / len(errors)
    yield Bar(
        name=f"bitfusion_16x32: mean error of a layer, {len(errors)} layers over five "
        "arrays and ports (validation)",
        figure=f"{100 * mean:.2f} %, worst {100 * max(errors):.2f} %",
        limit="at most 9 %",
        held=mean <= 0.09,
    )
