"""The target file of a device whose rates were fitted, as text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from matar_tf.policy import ALL_BITS, MAX_BITS
from matar_tf.predictor import rank_correlation
from matar_tf.pricing.fitting import FittedRates, Term
from matar_tf.targets import MULTIPLY_KINDS
from matar_tf.workload import OpKind

__all__ = ["Agreement", "Device", "target_text"]

_WIDTHS: Final = list(ALL_BITS)
_VAGUE: Final = 0.5  # standard error of a kind's rate from which it is an assumption
_LEAST_PREDICTED: Final = 3  # networks that say something of an error


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What a target file says of a device beside its rates.

    Attributes:
      name: Name of the target.
      description: What it is.
      measured_by: What timed the files, and when.
      is_host: Whether it is this machine, so that LiteRT can time exported files.
    """

    name: str
    description: str
    measured_by: str
    is_host: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How well times are predicted, each from those of the other networks.

    Attributes:
      num_files: How many were timed.
      num_predicted: How many could be predicted: the others have all their kinds.
      spearman: Rank correlation with the measured times.
      median_error: Median of the relative errors.
      largest_error: Largest of them.
      share_within: Share of those within a fifth.
    """

    num_files: int
    num_predicted: int
    spearman: float
    median_error: float
    largest_error: float
    share_within: float

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
        """Returns it for times, of which the predicted ones may be nan."""
        one, other = np.asarray(predicted), np.asarray(measured)
        known = np.isfinite(one)
        errors = np.abs(one[known] / other[known] - 1.0)
        enough = known.sum() >= _LEAST_PREDICTED
        return cls(
            num_files=len(other),
            num_predicted=int(known.sum()),
            spearman=rank_correlation(one[known], other[known]) if enough else math.nan,
            median_error=float(np.median(errors)) if enough else math.nan,
            largest_error=float(errors.max()) if enough else math.nan,
            share_within=float(np.mean(errors <= 0.2)) if enough else math.nan,
        )

    def __str__(self) -> str:
        if not math.isfinite(self.spearman):
            return f"{self.num_files} timed files, too few to predict any from others"
        left_out = self.num_files - self.num_predicted
        besides = (
            f"; {left_out} more have a kind of layer that no other has"
            if left_out
            else ""
        )
        return (
            f"{self.num_predicted} timed files, each predicted from the others: rank "
            f"correlation {self.spearman:.3f}, median error "
            f"{100 * self.median_error:.0f} %, {100 * self.share_within:.0f} % within "
            f"20 %{besides}"
        )


def target_text(
    device: Device,
    rates: FittedRates,
    agreement: Agreement,
    times: Mapping[str, tuple[float, float]],
) -> str:
    """Returns a target file whose cycles are nanoseconds.

    Args:
      device: What it is of.
      rates: Costs in nanoseconds.
      agreement: How well they predict.
      times: Milliseconds of each timed file, and what the others tell of them.
    """
    return "\n".join(
        [
            *_head(device, agreement, times),
            *_arrays(rates),
            *_vectors(rates),
            *_floats(rates),
            *_tail(device, rates),
        ]
    )


def _head(
    device: Device, agreement: Agreement, times: Mapping[str, tuple[float, float]]
) -> Iterator[str]:
    yield "# Fitted to the times of whole files, in milliseconds:"
    for name, (measured, predicted) in times.items():
        told = f"{predicted:.4g}" if math.isfinite(predicted) else "nothing"
        yield f"#   {name}: {measured:.4g}, of which the others tell {told}"
    yield "schema_version = 1"
    yield f"name = {_text(device.name)}"
    yield 'class = "int8"'
    yield f"description = {_text(device.description)}"
    yield "\n[[validation]]"
    if math.isfinite(agreement.largest_error):
        yield 'kind = "validation"'
        yield f"against = {_text(str(agreement))}"
        yield f"max_error_percent = {100 * agreement.largest_error:.1f}"
        yield f"source = {_text(device.measured_by)}"
    else:
        yield 'kind = "unchecked"'
        yield f"against = {_text(str(agreement))}"
    yield "\n[clock]"
    yield "frequency_hz = 1_000_000_000"
    yield 'source = "Nominal: one cycle is a nanosecond"'
    yield 'assumed = ["frequency_hz"]'
    yield "\n[compute]"
    yield 'kind = "bit_parallel"'
    yield f"source = {_text(f'Least squares over {agreement}. {device.measured_by}')}"


def _arrays(rates: FittedRates) -> Iterator[str]:
    kinds = [kind for kind in rates.errors if kind in MULTIPLY_KINDS]
    for kind in kinds:
        inputs, outputs = rates.steps.of(kind)
        yield "\n[[compute.rates]]"
        yield f"kinds = [{_text(kind.value)}]"
        yield f"weight_bits = {_WIDTHS}"
        yield f"activation_bits = {_WIDTHS}"
        yield f"cycles_per_mac = {_cost(rates, kind, 'macs')}"
        yield f"cycles_per_input = {_cost(rates, kind, 'inputs')}"
        yield f"cycles_per_output = {_cost(rates, kind, 'outputs')}"
        yield f"cycles_per_weight = {_cost(rates, kind, 'weights')}"
        yield f"input_step = {inputs}"
        yield f"output_step = {outputs}"
        yield from _source(rates, kind, "cycles_per_mac")
    yield "\n[[ops]]"
    yield 'unit = "array"'
    yield f"kinds = {_texts(kinds)}"
    yield f"weight_bits = {_WIDTHS}"
    yield f"activation_bits = {_WIDTHS}"
    yield 'source = "The default profile stores all widths in int8"'


def _vectors(rates: FittedRates) -> Iterator[str]:
    for kind in rates.errors:
        if kind in MULTIPLY_KINDS or kind is OpKind.FLOAT:
            continue
        yield "\n[[ops]]"
        yield 'unit = "vector"'
        yield f"kinds = [{_text(kind.value)}]"
        yield f"activation_bits = {_WIDTHS}"
        yield f"elems_per_cycle = {1.0 / rates.costs[Term(kind, 'elems')]:.4g}"
        yield from _source(rates, kind, "elems_per_cycle")


def _floats(rates: FittedRates) -> Iterator[str]:
    if OpKind.FLOAT not in rates.errors:
        return
    yield "\n[[ops]]"
    yield 'unit = "cpu"'
    yield 'kinds = ["float"]'
    yield f"weight_bits = {_WIDTHS}"
    yield f"activation_bits = {_WIDTHS}"
    yield f"cycles_per_mac = {_cost(rates, OpKind.FLOAT, 'macs')}"
    yield f"cycles_per_elem = {_cost(rates, OpKind.FLOAT, 'elems')}"
    yield from _source(rates, OpKind.FLOAT, "cycles_per_mac")
    yield "\n[cpu]"
    yield "frequency_hz = 1_000_000_000"
    yield 'source = "As [clock]"'
    yield 'assumed = ["frequency_hz"]'


def _tail(device: Device, rates: FittedRates) -> Iterator[str]:
    yield "\n[storage]"
    yield "kernels = ["
    for bits in _WIDTHS:
        yield f"  {{ weight_bits = {bits}, stored_bits = {float(MAX_BITS)} }},"
    yield "]"
    yield f"tensor_bits = {MAX_BITS}"
    yield 'source = "The default profile stores all widths in int8"'
    yield "\n[overhead]"
    yield f"layer_cycles = {rates.costs[Term(None, 'layer')]:.4g}"
    yield f"network_cycles = {rates.costs[Term(None, 'network')]:.4g}"
    yield 'source = "As [compute]"'
    if device.is_host:
        yield "\n[backend]"
        yield 'kind = "litert"'
        yield "num_threads = 1"
        yield "num_repeats = 50"
        yield 'source = "ai-edge-litert, the version that is installed"'
    yield ""


def _cost(rates: FittedRates, kind: OpKind, what: str) -> str:
    return f"{rates.costs[Term(kind, what)]:.4g}"  # pyright: ignore[reportArgumentType]


def _source(rates: FittedRates, kind: OpKind, key: str) -> Iterator[str]:
    error = rates.errors[kind]
    yield f"source = {_text(f'As [compute]; standard error {100 * error:.0f} %')}"
    if error > _VAGUE:
        yield f"assumed = [{_text(key)}]  # few files tell of it"


def _texts(kinds: Sequence[OpKind]) -> str:
    return f"[{', '.join(_text(kind.value) for kind in kinds)}]"


def _text(text: str) -> str:
    # Strings of JSON are strings of TOML where all of it can be printed.
    return json.dumps(text, ensure_ascii=False)
