"""The target model: what a target file may say, and what makes it consistent."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from matar_tf.policy import MAX_BITS, WIDE_BITS
from matar_tf.targets.compute import (
    BitParallelCompute,
    BitSerialCompute,
    BlockCompute,
    FoldedCompute,
    FusedCompute,
    Ne16Compute,
    NEurekaCompute,
    Rate,
    TableCompute,
)
from matar_tf.targets.fields import Text
from matar_tf.targets.limits import LayerLimit, NetworkLimit
from matar_tf.targets.sections import (
    ActivePowerEnergy,
    ArrayOps,
    Bandwidth,
    Buffers,
    Clock,
    Cpu,
    CpuOps,
    EventEnergy,
    LitertBackend,
    Memory,
    Ops,
    Overhead,
    Validation,
    VectorOps,
    VelaBackend,
)
from matar_tf.targets.storage import Storage
from matar_tf.workload import FLOAT_BITS, OpKind

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Target"]

# It is a folder's; file systems take 255 bytes, less where they encrypt names.
_Name: TypeAlias = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
]


class _KindOps(NamedTuple):
    """What the entries of ops say of one kind."""

    ops: tuple[Ops, ...]
    pairs: frozenset[tuple[int | None, int]]
    weight_bits: frozenset[int]
    activation_bits: frozenset[int]


class Target(BaseModel):
    """A hardware target, as read from its TOML file.

    Attributes:
      schema_version: Version of this model.
      name: Name in commands and reports.
      description: What the hardware is.
      target_class: Key ``class``: ``int8`` computes with 8-bit operands only, ``mixed``
        with 2, 4 and 8 bits, ``flexible`` with any width.
      validation: What the cost was compared with, and how far off it was.
      clock: Clock of the target.
      compute: Rule for the layers of unit ``array``.
      ops: What runs where, at which widths. A kind in no entry is not supported.
      limits: What shapes of layers it takes; without, all.
      network: What networks it takes; without, all.
      cpu: Processor for the entries of unit ``cpu``; there if and only if any are.
      memory: Capacities.
      bandwidth: Ports.
      buffers: On-chip buffers of a fused array; without, each tensor crosses the
        off-chip port once per layer.
      storage: How operands are stored, if not packed at the policy's widths.
      overhead: Cost per layer.
      energy: Energy rule; None if no source gives figures.
      backend: A tool whose figures replace the model where it is installed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_version: Literal[1]
    name: _Name
    description: Text
    target_class: Literal["int8", "mixed", "flexible"] = Field(alias="class")
    validation: Annotated[tuple[Validation, ...], Field(min_length=1)]
    clock: Clock
    compute: (
        BitParallelCompute
        | BitSerialCompute
        | BlockCompute
        | FoldedCompute
        | FusedCompute
        | NEurekaCompute
        | Ne16Compute
        | TableCompute
    ) = Field(discriminator="kind")
    ops: Annotated[
        tuple[Annotated[Ops, Field(discriminator="unit")], ...], Field(min_length=1)
    ]
    limits: tuple[LayerLimit, ...] = ()
    network: NetworkLimit | None = None
    cpu: Cpu | None = None
    memory: Memory | None = None
    bandwidth: Bandwidth | None = None
    buffers: Buffers | None = None
    storage: Storage | None = None
    overhead: Overhead
    energy: ActivePowerEnergy | EventEnergy | None = Field(
        default=None, discriminator="kind"
    )
    backend: VelaBackend | LitertBackend | None = Field(
        default=None, discriminator="kind"
    )

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        self._check_units()
        self._check_energy()
        self._check_memories()
        self._check_compute()
        self._check_class()
        return self

    def ops_for(self, kind: OpKind) -> tuple[Ops, ...]:
        """Returns the entries that run a kind; none if it is not supported."""
        return self._of_kinds[kind].ops

    def ops_at(self, kind: OpKind, activation_bits: int) -> Ops:
        """Returns the entry that runs a kind that is supported at a width of its input.

        Any entry where none takes that width.
        """
        entries = self.ops_for(kind)
        return next(
            (one for one in entries if activation_bits in one.activation_bits),
            entries[0],
        )

    def takes(
        self, kind: OpKind, weight_bits: int | None, activation_bits: int
    ) -> bool:
        """Returns whether a kind runs at these widths.

        Args:
          kind: Kind of the layer.
          weight_bits: Width of its weights, None for a layer without.
          activation_bits: Width of its input.
        """
        return (weight_bits, activation_bits) in self._of_kinds[kind].pairs

    def activation_bits_for(self, kind: OpKind) -> frozenset[int]:
        """Returns the input widths that a kind takes with some weight width."""
        return self._of_kinds[kind].activation_bits

    def weight_bits_for(self, kind: OpKind) -> frozenset[int]:
        """Returns the weight widths that a kind takes with some input width."""
        return self._of_kinds[kind].weight_bits

    @functools.cached_property
    def activation_bits(self) -> frozenset[int]:
        """The widths of a tensor of integers that some kind takes as its input."""
        return frozenset(bits for entry in self.ops for bits in entry.activation_bits)

    @functools.cached_property
    def _of_kinds(self) -> dict[OpKind, _KindOps]:
        """What runs each kind, and at which widths; a search asks for it often."""
        return {kind: self._of_kind(kind) for kind in OpKind}

    def _of_kind(self, kind: OpKind) -> _KindOps:
        ops = tuple(entry for entry in self.ops if kind in entry.kinds)
        pairs = frozenset(
            (weight_bits, activation_bits)
            for entry in ops
            for weight_bits in _weight_bits(entry)
            for activation_bits in entry.activation_bits
        )
        if kind is OpKind.FLOAT:
            # With or without a kernel, of integers that are made floats, or of floats.
            kernels = (None, *(bits for bits, _ in pairs))
            inputs = (*(bits for _, bits in pairs), *(FLOAT_BITS for _ in ops))
            pairs = frozenset((a, b) for a in kernels for b in inputs)
        return _KindOps(
            ops=ops,
            pairs=pairs,
            weight_bits=frozenset(bits for bits, _ in pairs if bits is not None),
            activation_bits=frozenset(bits for _, bits in pairs),
        )

    def model_copy(self, *, update: Any = None, deep: bool = False) -> Self:
        """Returns a copy, which works out for itself what follows from its fields."""
        copy = super().model_copy(update=update, deep=deep)
        for name in ("activation_bits", "_of_kinds"):
            vars(copy).pop(name, None)
        return copy

    def _check_compute(self) -> None:
        match self.compute:
            case BitParallelCompute() as compute:
                self._check_rates(compute)
            case BitSerialCompute() as compute:
                given = (compute.depthwise_group,)
                self._check_depthwise(given, "depthwise_group")
            case FusedCompute() as compute:
                self._check_widths("fused array splits into", compute.native_bits)
            case Ne16Compute() | NEurekaCompute() as compute:
                for _, _, activation_bits in self._array_pairs():
                    if activation_bits != MAX_BITS:
                        raise ValueError(
                            f"expected inputs of {MAX_BITS} bits for compute.kind "
                            f"{compute.kind!r}, got {activation_bits} under ops"
                        )
            case BlockCompute() as compute:
                self._check_wide(compute)
                given = (compute.depthwise_cycles, compute.depthwise_taps)
                self._check_depthwise(given, "depthwise_cycles and depthwise_taps")
            case FoldedCompute() | TableCompute():
                pass

    def _array_kinds(self) -> frozenset[OpKind]:
        return frozenset(kind for kind, _, _ in self._array_pairs())

    def _array_pairs(self) -> frozenset[tuple[OpKind, int, int]]:
        return frozenset(
            (kind, weight_bits, activation_bits)
            for entry in self.ops
            if isinstance(entry, ArrayOps)
            for kind in entry.kinds
            for weight_bits in entry.weight_bits
            for activation_bits in entry.activation_bits
        )

    def _check_units(self) -> None:
        for kind in OpKind:
            entries = self.ops_for(kind)
            if all(isinstance(entry, ArrayOps) for entry in entries):
                continue
            widths = [bits for entry in entries for bits in entry.activation_bits]
            if len({entry.unit for entry in entries}) > 1 or len(widths) > len(
                set(widths)
            ):
                raise ValueError(
                    f"expected one entry of ops for {kind.value!r}, or several of one "
                    "unit with different activation_bits"
                )
        if not self._array_kinds():
            raise ValueError("expected an entry of ops with unit 'array'")
        handed = any(isinstance(entry, CpuOps) for entry in self.ops)
        if handed != (self.cpu is not None):
            raise ValueError(
                "expected a table [cpu] if and only if an entry of ops has unit 'cpu'"
            )

    def _check_depthwise(self, given: tuple[int | None, ...], names: str) -> None:
        runs = OpKind.DEPTHWISE_CONV in self._array_kinds()
        if any((one is not None) != runs for one in given):
            raise ValueError(
                f"expected compute.{names} if and only if the unit 'array' runs "
                "'depthwise_conv'"
            )

    def _check_widths(self, what: str, native: tuple[int, ...]) -> None:
        for _, weight_bits, activation_bits in self._array_pairs():
            if not {weight_bits, activation_bits} <= set(native):
                raise ValueError(
                    f"expected widths that the {what}, {list(native)}, got weights of "
                    f"{weight_bits} and inputs of {activation_bits} bits under ops"
                )

    def _check_wide(self, compute: BlockCompute) -> None:
        takes_wide = any(bits == WIDE_BITS for *_, bits in self._array_pairs())
        if takes_wide != (compute.wide_scale is not None):
            raise ValueError(
                "expected compute.wide_scale if and only if the unit 'array' takes "
                f"inputs of {WIDE_BITS} bits"
            )

    def _check_class(self) -> None:
        widths = {bits for _, *pair in self._array_pairs() for bits in pair}
        widths -= {WIDE_BITS}
        if self.compute.kind == "table":
            return
        if self.compute.kind == "block" or self.storage or widths == {MAX_BITS}:
            expected = "int8"
        else:
            expected = "mixed" if widths <= {2, 4, 8} else "flexible"
        if self.target_class != expected:
            raise ValueError(
                f"expected class {expected!r} for compute.kind {self.compute.kind!r} "
                f"with widths {sorted(widths)}, got {self.target_class!r}"
            )

    def _check_memories(self) -> None:
        port = self.bandwidth and self.bandwidth.dram_bits_per_cycle
        if self.buffers and (self.compute.kind != "fused" or not port):
            raise ValueError(
                "expected a table [buffers] only with compute.kind 'fused' and "
                "bandwidth.dram_bits_per_cycle"
            )
        if self.storage:
            stored = sorted(entry.weight_bits for entry in self.storage.kernels)
            taken = sorted(
                {bits for kind in OpKind for bits in self.weight_bits_for(kind)}
            )
            if stored != taken:
                raise ValueError(
                    "expected one entry of storage.kernels for each width of weights "
                    f"under ops, {taken}, got {stored}"
                )

    def _check_energy(self) -> None:
        if isinstance(self.energy, EventEnergy):
            port = self.bandwidth and self.bandwidth.dram_bits_per_cycle
            if (port is None) != (self.energy.dram_pj_per_bit is None):
                raise ValueError(
                    "expected energy.dram_pj_per_bit if and only if there is "
                    "bandwidth.dram_bits_per_cycle"
                )

    def _check_rates(self, compute: BitParallelCompute) -> None:
        used: set[Rate] = set()
        for kind, weight_bits, activation_bits in sorted(self._array_pairs()):
            rates = [
                rate
                for rate in compute.rates
                if rate.covers(kind, weight_bits, activation_bits)
            ]
            if len(rates) != 1:
                raise ValueError(
                    f"expected one entry of compute.rates for {kind.value!r} with "
                    f"weights of {weight_bits} and inputs of {activation_bits} bits, "
                    f"got {len(rates)}"
                )
            used.update(rates)
        for index, rate in enumerate(compute.rates):
            if rate not in used:
                raise ValueError(
                    f"compute.rates[{index}] is for widths or kinds that no entry of "
                    "ops with unit 'array' lists"
                )


def _weight_bits(entry: Ops) -> tuple[int | None, ...]:
    """Returns the weight widths of an entry; None alone for kinds without weights."""
    return (None,) if isinstance(entry, VectorOps) else entry.weight_bits or (None,)
