"""The measurements of ``tools/benchmark.py targets``: published figures recomputed.

Each `Point` is a figure that somebody published, with what the catalogue's target says
for the same network. `calibration` means that the figure, or others with it, fixed a
parameter of the target: its error says how well the rule fits, not what it predicts.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import timeit
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from matar_tf.artifact import Artifact
from matar_tf.backends import PolicyCosts
from matar_tf.cost import CostModel, estimate
from matar_tf.errors import DataError
from matar_tf.targets import Target, load_target
from matar_tf.targets.demand import demand_of
from matar_tf.targets.roofline import terms_of
from matar_tf.tflite.vela import has_vela
from matar_tf.workload import LayerWorkload, Workload
from tools.bars import Bar
from tools.reference_bitfusion import (
    BATCH_SIZE,
    PUBLISHED_CYCLES,
    QuantizedNetwork,
    bitfusion_networks,
)
from tools.reference_networks import (
    autoencoder,
    ds_cnn,
    inception_v1,
    inception_v4,
    mobilenet_v1,
    mobilenet_v2,
    resnet8,
    uniform_policy,
)

__all__ = [
    "Point",
    "check_points",
    "compare_with_vela",
    "measure_reference_data",
    "points",
    "to_markdown",
]

_HAQ_TABLE = "haq_bismo_mobilenetv2_batch16.npy"
_BITFUSION_TABLE = "bitfusion_sweep.csv"
_MAX_BITS = 8


@dataclass(frozen=True, kw_only=True)
class Point:
    """A published figure and the model's.

    Attributes:
      target: Name of the target.
      network: Name of the network.
      bits: Widths of weights and activations, in words.
      unit: Unit of both figures.
      published: The published figure.
      predicted: The model's figure.
      kind: ``validation`` or ``calibration``.
      source: Where it was published.
    """

    target: str
    network: str
    bits: str
    unit: str
    published: float
    predicted: float
    kind: str
    source: str

    @property
    def error(self) -> float:
        """Relative error of the model."""
        return self.predicted / self.published - 1.0


def points() -> tuple[Point, ...]:
    """Returns every figure that is known without further files."""
    return (*_mlperf_tiny(), *_edge_tpu(), *_vela(), *_haq_totals(), *_bitfusion())


_TINY = ("ResNet-8", "DS-CNN", "MobileNet v1 0.25", "autoencoder")
_TINY_LATENCY_MS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "cortex_m4_cmsis_nn": (
        "mlcommons/tiny_results_v1.1, STM32L4R5, microTVM with CMSIS-NN",
        (389.56, 99.81, 300.84, 8.605),
    ),
    "cortex_m7": (
        "mlcommons/tiny_results_v1.2, STM32H7A3, X-CUBE-AI 9",
        (40.85, 11.32, 23.80, 1.225),
    ),
    "ne16_gap9": (
        "mlcommons/tiny_results_v1.0, GAP9 at 370 MHz",
        (0.616, 0.475, 1.125, 0.176),
    ),
}


# Energy of one inference, where the same boards were metered.
_TINY_ENERGY_MJ: Mapping[str, tuple[float, ...]] = {
    "cortex_m4_cmsis_nn": (20.24,),
    "cortex_m7": (5.090, 1.376, 2.965, 0.166),
    "ne16_gap9": (0.0404, 0.0267, 0.0584, 0.00729),
}


def _tiny_networks() -> tuple[Workload, ...]:
    return resnet8(), ds_cnn(), mobilenet_v1(96, 0.25, 2), autoencoder()


def _mlperf_tiny() -> Iterator[Point]:
    for name, (source, figures) in _TINY_LATENCY_MS.items():
        target = load_target(name)
        for network, workload, published in zip(
            _TINY, _tiny_networks(), figures, strict=True
        ):
            cost = estimate(workload, uniform_policy(workload, 8, 8), target)
            yield Point(
                target=name,
                network=network,
                bits="8/8",
                unit="ms",
                published=published,
                predicted=cost.latency_ms,
                kind="calibration",
                source=source,
            )
        for network, workload, published in zip(
            _TINY, _tiny_networks(), _TINY_ENERGY_MJ[name], strict=False
        ):
            cost = estimate(workload, uniform_policy(workload, 8, 8), target)
            yield Point(
                target=name,
                network=network,
                bits="8/8",
                unit="mJ",
                published=published,
                predicted=(cost.energy_pj or math.nan) * 1e-9,
                kind="calibration",
                source="mlcommons/tiny_results, energy mode of the same board",
            )


def _edge_tpu() -> Iterator[Point]:
    target = load_target("edge_tpu_coral")
    for network, workload, published in (
        ("MobileNet v1", mobilenet_v1(224, 1.0, 1001), 2.17),
        ("MobileNet v2", mobilenet_v2(1001), 2.29),
        ("Inception v1", inception_v1(1001), 3.06),
        ("Inception v4", inception_v4(1001), 84.25),
    ):
        cost = estimate(workload, uniform_policy(workload, 8, 8), target)
        yield Point(
            target=target.name,
            network=network,
            bits="8/8",
            unit="ms",
            published=published,
            predicted=cost.latency_ms,
            kind="calibration",
            source="google-coral/edgetpu, basic_engine_reference_x86_64.csv",
        )


# cycles_total of ethos-u-vela 5.2.0, Ethos_U55_High_End_Embedded, Shared_Sram, on
# exported w8a8 files with untrained, normally distributed kernels.
_VELA_CYCLES: Mapping[str, tuple[int, int, int]] = {
    "ethos_u55_128": (204_490, 94_829, 367_846),
    "ethos_u55_256": (144_774, 63_363, 317_846),
}


def _vela() -> Iterator[Point]:
    for name, figures in _VELA_CYCLES.items():
        target = load_target(name)
        for network, workload, published in zip(
            _TINY, _tiny_networks(), figures, strict=False
        ):
            # The exported files end with logits.
            policy = uniform_policy(workload, 8, 8)
            cost = estimate(workload, policy, target)
            softmax = cost.layers[-1].cycles
            yield Point(
                target=name,
                network=network,
                bits="8/8",
                unit="cycles",
                published=published,
                predicted=cost.cycles - softmax,
                kind="calibration",
                source="ethos-u-vela 5.2.0: a compiler's estimate",
            )


def _haq_totals() -> Iterator[Point]:
    workload = mobilenet_v2(100, bias=False)
    target = load_target("bismo_haq")
    for bits, published in ((8, 39_624_933), (4, 15_716_150), (2, 7_063_425)):
        yield Point(
            target=target.name,
            network="MobileNet v2, batch 16",
            bits=f"{bits}/{bits}",
            unit="cycles",
            published=published,
            predicted=sum(_kernel_cycles(workload, bits, bits, target, 16)),
            kind="calibration",
            source="mit-han-lab/haq, latency table",
        )


def _bitfusion() -> Iterator[Point]:
    target = _published_bitfusion(load_target("bitfusion_16x32"))
    for name, network in bitfusion_networks().items():
        yield Point(
            target=target.name,
            network=f"{name}, batch 16",
            bits=", ".join(
                f"{weights}/{inputs}"
                for weights, inputs in dict.fromkeys(network.widths.values())
            ),
            unit="cycles",
            published=PUBLISHED_CYCLES[name],
            predicted=sum(
                _bitfusion_cycles(network, layer, target) for layer in network.widths
            ),
            kind="validation",
            source="hsharma35/bitfusion: a simulator",
        )


def _published_bitfusion(target: Target, **sizes: int) -> Target:
    """Returns Bit Fusion with sums and padding that cross the port, as published."""
    if target.buffers is None:
        raise DataError("Expected a target with buffers.")
    changes = {"stores_accumulators": True, "pads_weights": True, **sizes}
    return target.model_copy(
        update={"buffers": target.buffers.model_copy(update=changes)}
    )


def _bitfusion_cycles(network: QuantizedNetwork, name: str, target: Target) -> float:
    workload = network.workload
    layer = next(one for one in workload.layers if one.name == name)
    weight_bits, input_bits = network.widths[name]
    return _layer_cycles(layer, workload, (weight_bits, input_bits), target, BATCH_SIZE)


def _layer_cycles(
    layer: LayerWorkload,
    workload: Workload,
    widths: tuple[int, int],
    target: Target,
    batch_size: int,
) -> float:
    """Returns the cycles of a kernel, biases and scales left out, at 1..8 bits."""
    weight_bits, input_bits = widths
    demand = demand_of(
        layer,
        workload,
        (weight_bits, (input_bits,), _MAX_BITS),
        batch_size=batch_size,
    )
    demand = dataclasses.replace(demand, constant_bits=0)
    terms = terms_of(demand, target.ops_for(layer.kind)[0], target)
    return max(terms.cycles.values())


def _kernel_cycles(
    workload: Workload,
    weight_bits: int,
    input_bits: int,
    target: Target,
    batch_size: int,
) -> list[float]:
    return [
        _layer_cycles(layer, workload, (weight_bits, input_bits), target, batch_size)
        for layer in workload.layers
        if layer.weights
    ]


def check_points(found: Sequence[Point]) -> Iterator[Bar]:
    """Yields the bars that need no further files."""
    for name in _TINY_LATENCY_MS:
        yield _worst(found, name, f"{name}: MLPerf Tiny, worst of 4 networks", 0.21)
    yield _worst(found, "edge_tpu_coral", "edge_tpu_coral: worst of 4 networks", 0.21)
    for name in _VELA_CYCLES:
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
    names = tuple(name for name in names if name.endswith("a8"))
    for name in _VELA_CYCLES:
        target = load_target(name)
        compiled = PolicyCosts(artifact, target)
        errors: dict[str, float] = {}
        for policy_name in names:
            policy = artifact.space.named(policy_name)
            modelled = estimate(artifact.workload, policy, target).cycles
            errors[policy_name] = modelled / (compiled(policy)["cycles"] or 0.0) - 1.0
        worst = max(errors, key=lambda one: abs(errors[one]))
        yield Bar(
            name=f"{name}: analytic model against Vela on this artifact, worst of "
            f"{', '.join(names)}",
            figure=f"{100 * errors[worst]:+.1f} % ({worst}; w8a8 "
            f"{100 * errors['w8a8']:+.1f} %)",
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
            ours[:, weights, inputs] = _kernel_cycles(
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
            target = _published_bitfusion(
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
            cycles = _bitfusion_cycles(networks[row["Network"]], name, target)
            errors.append(abs(cycles / int(row["Cycles"]) - 1.0))
    mean = math.fsum(errors) / len(errors)
    yield Bar(
        name=f"bitfusion_16x32: mean error of a layer, {len(errors)} layers over five "
        "arrays and ports (validation)",
        figure=f"{100 * mean:.2f} %, worst {100 * max(errors):.2f} %",
        limit="at most 9 %",
        held=mean <= 0.09,
    )


def to_markdown(found: Sequence[Point]) -> str:
    """Returns the points as a table."""
    lines = [
        "| target | network | W/A bits | unit | published | model | error | kind |"
        " source |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | --- | --- |",
    ]
    for one in found:
        digits = {"cycles": 0, "mJ": 4}.get(one.unit, 3)
        lines.append(
            f"| `{one.target}` | {one.network} | {one.bits} | {one.unit} "
            f"| {one.published:,.{digits}f} | {one.predicted:,.{digits}f} "
            f"| {100 * one.error:+.1f} % | {one.kind} | {one.source} |"
        )
    return "\n".join(lines) + "\n"
