"""The latency table of a network, to be filled in."""

from __future__ import annotations

import csv
import io

from matar_tf.policy import WIDE_BITS
from matar_tf.pricing.constraints import names_of
from matar_tf.space import PolicySpace
from matar_tf.targets.latency_table import COLUMNS
from matar_tf.targets.target import Target
from matar_tf.workload import FLOAT_BITS, LayerWorkload, OpKind, Workload

__all__ = ["table_template"]

_UNIT = "ms"


def table_template(
    workload: Workload,
    space: PolicySpace,
    *,
    target: Target | None = None,
    by_name: bool = False,
) -> str:
    """Returns a latency table in CSV with an empty value in each row.

    It has a row for each layer of integers and each pair of widths that policies may
    have there; layers of one shape share theirs.

    Args:
      workload: The network.
      space: Its policies.
      target: Hardware whose widths are taken alone; None for all. With one that takes
        16-bit activations, there are rows for them.
      by_name: Whether rows are of layers, by their names, instead of shapes.
    """
    rows: dict[tuple[str, int | None, int], None] = {}
    for layer in workload.layers:
        if layer.kind is OpKind.FLOAT or not layer.inputs:
            continue
        name, shape = names_of(layer, workload)
        for weight_bits, activation_bits in _pairs(layer, workload, space, target):
            key = name if by_name else shape
            rows[key, weight_bits, activation_bits] = None
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for key, weight_bits, activation_bits in rows:
        shown = "" if weight_bits is None else weight_bits
        table.writerow([key, shown, activation_bits, "", _UNIT])
    return text.getvalue()


def _pairs(
    layer: LayerWorkload, workload: Workload, space: PolicySpace, target: Target | None
) -> list[tuple[int | None, int]]:
    """Returns the widths of weights and of the first input that a layer may have."""
    entry = workload.tensors[layer.inputs[0]].activation
    weights: tuple[int | None, ...] = (None,)
    if layer.weights is not None:
        weights = tuple(space.weights[layer.weights])
    if entry is None:
        inputs: tuple[int, ...] = (workload.fixed_bits(layer.inputs[0]),)
    else:
        inputs = tuple(space.activations[entry])
        inputs += (WIDE_BITS,) if target is not None else ()
    return [
        (weight_bits, bits)
        for weight_bits in weights
        for bits in inputs
        if bits != FLOAT_BITS
        and (target is None or target.takes(layer.kind, weight_bits, bits))
    ]
