"""Published figures of networks on hardware, and the catalogue's for the same.

Each `Point` is a figure that somebody published, with what the catalogue's target says
for the same network. `calibration` means that the figure, or others with it, fixed a
parameter of the target: its error says how well the rule fits, not what it predicts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matar_tf.errors import DataError
from matar_tf.pricing.arrays import peak_macs_per_cycle
from matar_tf.pricing.demand import demand_of
from matar_tf.pricing.model import estimate
from matar_tf.pricing.roofline import terms_of
from matar_tf.targets import Target, load_target
from matar_tf.workload import LayerWorkload, Workload
from tools.benchmarks.reference_bitfusion import (
    BATCH_SIZE,
    PUBLISHED_CYCLES,
    QuantizedNetwork,
    bitfusion_networks,
)
from tools.benchmarks.reference_networks import (
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
    "TINY_LATENCY_MS",
    "VELA_CYCLES",
    "Point",
    "bitfusion_cycles",
    "kernel_cycles",
    "points",
    "published_bitfusion",
    "to_markdown",
]

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
    return (
        *(*_mlperf_tiny(), *_edge_tpu(), *_vela(), *_haq_totals(), *_bitfusion()),
        *_n_eureka(),
    )


_TINY = ("ResNet-8", "DS-CNN", "MobileNet v1 0.25", "autoencoder")
TINY_LATENCY_MS: Mapping[str, tuple[str, tuple[float, ...]]] = {
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
    for name, (source, figures) in TINY_LATENCY_MS.items():
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


# cycles_total of ethos-u-vela 5.2.0, configured as the targets' [backend] says, on
# exported w8a8 files with untrained, normally distributed kernels.
VELA_CYCLES: Mapping[str, tuple[int, int, int]] = {
    "ethos_u55_128": (204_490, 94_829, 367_846),
    "ethos_u55_256": (144_774, 63_363, 317_846),
    "ethos_u65_256": (112_657, 55_884, 269_985),
    "ethos_u85_256": (128_260, 48_754, 306_788),
}


def _vela() -> Iterator[Point]:
    for name, figures in VELA_CYCLES.items():
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
            predicted=sum(kernel_cycles(workload, bits, bits, target, 16)),
            kind="calibration",
            source="mit-han-lab/haq, latency table",
        )


def _n_eureka() -> Iterator[Point]:
    """Peak rates of a large 3x3 convolution, two operations for each MAC."""
    target = load_target("n_eureka")
    for bits, published, kind in ((8, 698.0, "calibration"), (2, 1950.0, "validation")):
        rate = peak_macs_per_cycle(target, bits, _MAX_BITS)
        yield Point(
            target=target.name,
            network="a large 3x3 convolution",
            bits=f"{bits}/{_MAX_BITS}",
            unit="GOPS",
            published=published,
            predicted=2e-9 * rate * target.clock.frequency_hz,
            kind=kind,
            source="Siracusa, arXiv 2312.14750, abstract",
        )


def _bitfusion() -> Iterator[Point]:
    target = published_bitfusion(load_target("bitfusion_16x32"))
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
                bitfusion_cycles(network, layer, target) for layer in network.widths
            ),
            kind="validation",
            source="hsharma35/bitfusion: a simulator",
        )


def published_bitfusion(target: Target, **sizes: int) -> Target:
    """Returns Bit Fusion with sums and padding that cross the port, as published."""
    if target.buffers is None:
        raise DataError("Expected a target with buffers.")
    changes = {"stores_accumulators": True, "pads_weights": True, **sizes}
    return target.model_copy(
        update={"buffers": target.buffers.model_copy(update=changes)}
    )


def bitfusion_cycles(network: QuantizedNetwork, name: str, target: Target) -> float:
    """Returns the cycles of a layer of one of Bit Fusion's networks, at batch 16."""
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


def kernel_cycles(
    workload: Workload,
    weight_bits: int,
    input_bits: int,
    target: Target,
    batch_size: int,
) -> list[float]:
    """Returns the cycles of each layer with a kernel, at 1..8 bits."""
    return [
        _layer_cycles(layer, workload, (weight_bits, input_bits), target, batch_size)
        for layer in workload.layers
        if layer.weights
    ]


def to_markdown(found: Sequence[Point]) -> str:
    """Returns the points as a table."""
    lines = [
        "| target | network | W/A bits | unit | published | model | error | kind |"
        " source |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | --- | --- |",
    ]
    for one in found:
        digits = {"cycles": 0, "GOPS": 0, "mJ": 4}.get(one.unit, 3)
        lines.append(
            f"| `{one.target}` | {one.network} | {one.bits} | {one.unit} "
            f"| {one.published:,.{digits}f} | {one.predicted:,.{digits}f} "
            f"| {100 * one.error:+.1f} % | {one.kind} | {one.source} |"
        )
    return "\n".join(lines) + "\n"
