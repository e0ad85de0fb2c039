"""The limits of a target, one named function each.

The first line of a function's docstring is its message to the user and its entry in
the manual (`CONSTRAINTS`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final, NamedTuple

from matar_tf.policy import Policy
from matar_tf.pricing.arrays import tiled_nest
from matar_tf.pricing.blocking import LoopNest, fits_buffers
from matar_tf.pricing.demand import layer_shape
from matar_tf.pricing.layer_widths import LayerWidths
from matar_tf.pricing.memory import (
    Liveness,
    constant_bytes,
    decoded_bytes,
    fixed_width,
    layer_weight_bytes,
)
from matar_tf.pricing.shape_limits import SHAPE_CONSTRAINTS, site_of
from matar_tf.pricing.violations import Site, Violation, sentence_of, violation
from matar_tf.targets.compute import FusedCompute, TableCompute
from matar_tf.targets.sections import ArrayOps, Memory
from matar_tf.targets.target import Target
from matar_tf.workload import FLOAT_BITS, LayerWorkload, OpKind, Workload

__all__ = [
    "CONSTRAINTS",
    "PolicyChecker",
    "Violation",
    "check_policy",
    "has_room",
    "is_measured",
    "names_of",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Site(Site):
    """A layer under a policy: all that a limit on one layer may look at."""

    inputs: tuple[tuple[str | None, int], ...]
    output: tuple[str | None, int]
    output_is_read: bool
    names: tuple[str, str]
    nest: LoopNest | None


class _Finding(NamedTuple):
    """What a layer breaks at its widths, and the bytes of its constants.

    Of these, those of its kernel; and those of its kernel when it is decoded.
    """

    violations: tuple[Violation, ...]
    weight_bytes: int
    kernel_bytes: int
    decoded_bytes: int


def constraint_supported_ops(site: _Site, target: Target) -> Iterable[Violation]:
    """Every layer must be of a kind that the target runs, on its CPU if need be."""
    if not target.ops_for(site.layer.kind):
        known = sorted({kind.value for entry in target.ops for kind in entry.kinds})
        yield violation(
            constraint_supported_ops,
            site,
            f"expected one of {known}, got {site.layer.kind.value!r}",
        )


def constraint_weight_bits(site: _Site, target: Target) -> Iterable[Violation]:
    """Weights must use a width that the target takes for this kind of layer."""
    allowed = target.weight_bits_for(site.layer.kind)
    if site.weight_bits is not None and allowed and site.weight_bits not in allowed:
        yield violation(
            constraint_weight_bits,
            site,
            f"expected one of {sorted(allowed)} bits, got {site.weight_bits}",
            weights=site.layer.weights,
        )


def constraint_activation_bits(site: _Site, target: Target) -> Iterable[Violation]:
    """Inputs must use a width that the target takes for this kind of layer."""
    allowed = target.activation_bits_for(site.layer.kind)
    for entry, bits in site.inputs:
        if allowed and bits not in allowed:
            yield violation(
                constraint_activation_bits,
                site,
                f"expected one of {sorted(allowed)} bits, got {bits}",
                activations=entry,
            )


def constraint_output_bits(site: _Site, target: Target) -> Iterable[Violation]:
    """Outputs of the network must use a width that the target takes somewhere."""
    entry, bits = site.output
    allowed = target.activation_bits | {FLOAT_BITS}
    if not site.output_is_read and bits not in allowed:
        yield violation(
            constraint_output_bits,
            site,
            f"expected one of {sorted(target.activation_bits)} bits, got {bits}",
            activations=entry,
        )


def constraint_bit_pairs(site: _Site, target: Target) -> Iterable[Violation]:
    """Weights and input must use a pair of widths that the target takes together."""
    kind, weight_bits = site.layer.kind, site.weight_bits
    if weight_bits is None:
        return
    entry, bits = site.inputs[0]
    if (
        not target.takes(kind, weight_bits, bits)
        and weight_bits in target.weight_bits_for(kind)
        and bits in target.activation_bits_for(kind)
    ):
        pairs = sorted(
            (weights, inputs)
            for weights in target.weight_bits_for(kind)
            for inputs in target.activation_bits_for(kind)
            if target.takes(kind, weights, inputs)
        )
        yield violation(
            constraint_bit_pairs,
            site,
            f"expected weight and input bits among {pairs}, got {(weight_bits, bits)}",
            weights=site.layer.weights,
            activations=entry,
        )


def constraint_latency_table(site: _Site, target: Target) -> Iterable[Violation]:
    """Weights and input must use widths that the latency table has a row for."""
    if not site.inputs:
        return
    entry, bits = site.inputs[0]
    kind = site.layer.kind
    if not is_measured(
        site.names, kind, site.weight_bits, bits, target
    ) and target.takes(kind, site.weight_bits, bits):
        yield violation(
            constraint_latency_table,
            site,
            f"expected a row under this name or {site.names[1]!r} for weight and input "
            f"bits {(site.weight_bits, bits)}, got none",
            weights=site.layer.weights,
            activations=entry,
        )


def constraint_buffers(site: _Site, target: Target) -> Iterable[Violation]:
    """Weights and input must leave the buffers room for the smallest tiles."""
    if site.nest is None or site.weight_bits is None or not site.inputs:
        return
    entry, bits = site.inputs[0]
    if target.takes(site.layer.kind, site.weight_bits, bits) and not has_room(
        site.nest, site.weight_bits, bits, target
    ):
        yield violation(
            constraint_buffers,
            site,
            f"expected larger [buffers], or other widths than weight and input bits "
            f"{(site.weight_bits, bits)}",
            weights=site.layer.weights,
            activations=entry,
        )


def constraint_weight_memory(num_bytes: int, memory: Memory) -> Iterable[Violation]:
    """Weights, biases and scales must fit into the weight memory."""
    capacity = memory.weight_capacity_bytes
    yield from _memory_violation(constraint_weight_memory, num_bytes, capacity)


def constraint_kernel_memory(num_bytes: int, memory: Memory) -> Iterable[Violation]:
    """Weights alone must fit into the memory that holds nothing else."""
    capacity = memory.kernel_capacity_bytes
    yield from _memory_violation(constraint_kernel_memory, num_bytes, capacity)


def constraint_activation_memory(num_bytes: int, memory: Memory) -> Iterable[Violation]:
    """Tensors that are alive at one time must fit into the activation memory."""
    capacity = memory.activation_capacity_bytes
    yield from _memory_violation(constraint_activation_memory, num_bytes, capacity)


_LAYER_CONSTRAINTS: Final = (
    constraint_supported_ops,
    constraint_weight_bits,
    constraint_activation_bits,
    constraint_output_bits,
    constraint_bit_pairs,
    constraint_latency_table,
    constraint_buffers,
    *SHAPE_CONSTRAINTS,
)
_MEMORY_CONSTRAINTS: Final = (
    constraint_weight_memory,
    constraint_kernel_memory,
    constraint_activation_memory,
)

CONSTRAINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        function.__name__: sentence_of(function)
        for function in (*_LAYER_CONSTRAINTS, *_MEMORY_CONSTRAINTS)
    }
)


class PolicyChecker:
    """Finds the limits of a target that policies of a network break.

    What a layer breaks follows from its widths, and is remembered: a search asks for
    thousands of policies.

    Args:
      workload: The network.
      target: The target.

    Raises:
      ModelError: If a layer has too many inputs.
    """

    def __init__(self, workload: Workload, target: Target) -> None:
        self._workload = workload
        self._target = target
        self._widths = LayerWidths(workload)
        self._liveness = Liveness(workload, target.storage)
        self._names = [names_of(layer, workload) for layer in workload.layers]
        self._nests = [tiled_nest(one, workload, target) for one in workload.layers]
        read = {name for layer in workload.layers for name in layer.inputs}
        self._is_read = [layer.output in read for layer in workload.layers]
        # The entry of each tensor, or its width.
        known = {
            name: one.activation or workload.fixed_bits(name)
            for name, one in workload.tensors.items()
        }
        self._inputs = [[known[one] for one in at.inputs] for at in workload.layers]
        self._outputs = [known[layer.output] for layer in workload.layers]
        self._known: tuple[dict[int, _Finding], ...] = tuple(
            {} for _ in workload.layers
        )

    def __call__(self, policy: Policy) -> tuple[Violation, ...]:
        """Returns every limit that a policy breaks; none if it may run.

        Raises:
          PolicyError: If the policy has no entry for a layer or tensor, or an entry
            that matches nothing.
        """
        widths = self._widths.of(policy)
        keys = self._widths.keys(widths)
        findings = [
            known.get(key) or self._find(row, key, policy)
            for row, (known, key) in enumerate(zip(self._known, keys, strict=True))
        ]
        found = [one for finding in findings for one in finding.violations]
        memory = self._target.memory
        if memory is not None:
            weight_bytes = sum(finding.weight_bytes for finding in findings)
            found += constraint_weight_memory(weight_bytes, memory)
            kernel_bytes = sum(finding.kernel_bytes for finding in findings)
            found += constraint_kernel_memory(kernel_bytes, memory)
            peak_bytes = self._liveness.peak_bytes(
                self._widths.of_tensors(widths),
                [finding.decoded_bytes for finding in findings],
            )
            found += constraint_activation_memory(peak_bytes, memory)
        return tuple(found)

    def _find(self, row: int, key: int, policy: Policy) -> _Finding:
        """Returns what a layer breaks at widths that are new."""
        site = self._site(row, policy)
        found = [
            one
            for constraint in _LAYER_CONSTRAINTS
            for one in constraint(site, self._target)
        ]
        storage = self._target.storage
        num_bytes = layer_weight_bytes(
            site.layer, self._workload, site.weight_bits, storage
        )
        finding = self._known[row][key] = _Finding(
            violations=tuple(found),
            weight_bytes=num_bytes,
            kernel_bytes=num_bytes - constant_bytes(site.layer, self._workload),
            decoded_bytes=decoded_bytes(site.layer, site.weight_bits, storage),
        )
        return finding

    def _site(self, row: int, policy: Policy) -> _Site:
        layer, activations = self._workload.layers[row], policy.activations

        def width(tensor: str | int) -> tuple[str | None, int]:
            if isinstance(tensor, int):
                return None, fixed_width(tensor, policy)
            return tensor, activations[tensor]

        bits = policy.weights[layer.weights] if layer.weights else None
        shapes = site_of(row, self._workload, bits)
        return _Site(
            **{one.name: getattr(shapes, one.name) for one in fields(shapes)},
            inputs=tuple(map(width, self._inputs[row])),
            output=width(self._outputs[row]),
            output_is_read=self._is_read[row],
            names=self._names[row],
            nest=self._nests[row],
        )


def check_policy(
    workload: Workload, policy: Policy, target: Target
) -> tuple[Violation, ...]:
    """Returns every limit of a target that one policy breaks; see `PolicyChecker`."""
    return PolicyChecker(workload, target)(policy)


def names_of(layer: LayerWorkload, workload: Workload) -> tuple[str, str]:
    """Returns what the rows of a latency table may call a layer: name and shape."""
    tensors = workload.tensors
    source = tensors[layer.inputs[0]].shape if layer.inputs else ()
    return layer.name, layer_shape(layer, source, tensors[layer.output].shape)


def is_measured(
    names: tuple[str, str],
    kind: OpKind,
    weight_bits: int | None,
    activation_bits: int,
    target: Target,
) -> bool:
    """Returns whether a latency table prices a layer; true where none has to."""
    table = target.compute
    if not isinstance(table, TableCompute):
        return True
    if not all(isinstance(entry, ArrayOps) for entry in target.ops_for(kind)):
        return True
    return table.cycles(names, weight_bits, activation_bits) is not None


def has_room(
    nest: LoopNest | None, weight_bits: int, activation_bits: int, target: Target
) -> bool:
    """Returns whether a layer's smallest tiles fit; true where none are cut.

    Args:
      nest: The loops of the layer; see `tiled_nest`.
      weight_bits: Width of its weights.
      activation_bits: Width of its first input.
      target: The target.
    """
    compute, buffers = target.compute, target.buffers
    if nest is None or not isinstance(compute, FusedCompute) or buffers is None:
        return True
    return fits_buffers(nest, (weight_bits, activation_bits), compute, buffers)


def _memory_violation(
    constraint: Callable[[int, Memory], Iterable[Violation]],
    num_bytes: int,
    capacity: int | None,
) -> Iterable[Violation]:
    if capacity is not None and num_bytes > capacity:
        yield Violation(
            constraint=constraint.__name__,
            message=f"{sentence_of(constraint)} Expected at most {capacity} "
            f"bytes, got {num_bytes}.",
            excess=num_bytes / capacity - 1.0,
        )
