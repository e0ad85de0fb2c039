"""Sizes of files, without building the file of each policy.

The bits of a policy change its file in few ways: the length of each kernel, the length
of the text that describes the policy, and, in some profiles, the operators around a
kernel or a clamp. A vector that is longer by whole blocks of the largest alignment
makes a file longer by these bytes and changes nothing else. So one file is built for
each structure and each rest of the lengths, and all others are computed from it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from matar_tf.policy import MAX_BITS, Policy
from matar_tf.tflite._containers import Storage, narrowest_container
from matar_tf.tflite._indexing import tables_of
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.metadata import encode_metadata

__all__ = ["FileSizes"]

_BLOCK: Final = 16  # bytes; flatbuffers align to 8 at most here


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one kernel is to its file.

    Attributes:
      storage: How it is stored.
      lengths: Bytes of its buffers: one, or one for each piece of a kernel in float and
        for each further call of its layer; and of tables, where it has some.
      structure: Number of the structure of the file that it makes.
    """

    storage: Storage
    lengths: tuple[int, ...]
    structure: int


class FileSizes:
    """The number of bytes that `ModelBuilder.build` returns for a policy.

    Args:
      builder: Of the packaged network.
      profile: How kernels are stored.
      metadata: What the files are given; fractions may be any, see `encode_metadata`.
    """

    def __init__(
        self,
        builder: ModelBuilder,
        *,
        profile: str = "int8",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._builder = builder
        self._profile = profile
        self._metadata = metadata
        self._widest = builder.space.widest()
        self._parts: dict[tuple[str, int], _Part] = {}
        self._structures: dict[Hashable, int] = {}
        self._rests: dict[Hashable, int] = {}

    @property
    def num_built(self) -> int:
        """Number of policies whose file was built."""
        return len(self._rests)

    def __call__(self, policy: Policy) -> int:
        """Returns the size of a policy's file in bytes.

        Raises:
          PolicyError: If the policy is not of the artifact's space.
          ExportError: If there is no such profile.
        """
        self._builder.space.validate(policy)
        parts = [self._part(entry, policy.weights[entry]) for entry in self._entries]
        text = encode_metadata(
            self._builder.describe(
                policy,
                [part.storage for part in parts],
                self._metadata,
                profile=self._profile,
            )
        )
        lengths = [*(size for part in parts for size in part.lengths), len(text)]
        key = (
            tuple(part.structure for part in parts),
            tuple(length % _BLOCK for length in lengths),
            self._builder.identity_clamps(policy),
            policy.is_wide,
        )
        in_blocks = sum(length - length % _BLOCK for length in lengths)
        if key not in self._rests:
            content = self._builder.build(policy, self._metadata, profile=self._profile)
            self._rests[key] = len(content) - in_blocks
        return self._rests[key] + in_blocks

    def is_decoded(self, entry: str, bits: int) -> bool:
        """Returns whether a kernel of some bits is stored as indices into a table."""
        if self._profile != "tflm":
            return False
        return self._part(entry, bits).storage.stored_bits < MAX_BITS

    @property
    def _entries(self) -> tuple[str, ...]:
        return tuple(self._widest.weights)

    def _part(self, entry: str, bits: int) -> _Part:
        """Returns what a kernel is to its file, all others being as wide as they can.

        Widths of one container are stored alike: the first that is met stands for all.
        Tables have a container of each width.
        """
        is_table = self._profile == "tflm"
        key = entry, bits if is_table else narrowest_container(bits)
        if key not in self._parts:
            self._parts[key] = self._compute_part(entry, bits)
        return self._parts[key]

    def _compute_part(self, entry: str, bits: int) -> _Part:
        policy = Policy(
            weights={**self._widest.weights, entry: bits},
            activations=self._widest.activations,
        )
        model, storages = self._builder.fill(policy, profile=self._profile)
        names = set(self._builder.stored_names(entry))
        buffers = {
            one.buffer
            for place, tensor in enumerate(model.subgraphs[0].tensors)
            if tensor.name in names
            for one in (tensor, *tables_of(model, place))
        }
        number = self._structures.setdefault(_structure(model), len(self._structures))
        return _Part(
            storage=next(one for one in storages if one.entry == entry),
            lengths=tuple(len(model.buffers[one].data) for one in sorted(buffers)),
            structure=number,
        )


def _structure(model: Any) -> Hashable:
    """Returns all that decides the size of a file but the lengths of its buffers."""
    graph = model.subgraphs[0]
    return (
        tuple((code.builtinCode, code.version) for code in model.operatorCodes),
        tuple((tensor.name, len(tensor.shape)) for tensor in graph.tensors),
        tuple(
            (one.opcodeIndex, tuple(map(int, one.inputs)), tuple(map(int, one.outputs)))
            for one in graph.operators
        ),
    )
