"""How a target stores operands: the table ``[storage]`` of a target file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from matar_tf.policy import MAX_BITS
from matar_tf.targets.fields import Count, NotNegative, Positive, Section, Width

__all__ = ["Decoding", "Storage", "StoredWidth"]


class StoredWidth(BaseModel):
    """What a weight of some width takes up after compression.

    Attributes:
      weight_bits: Width in the policy.
      stored_bits: Mean bits per weight as stored.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )

    weight_bits: Width
    stored_bits: Positive


class Decoding(Section):
    """Kernels as indices into a table of their values, decoded for each inference.

    A kernel is stored so if that takes fewer bytes than one for each weight, and then
    takes these in the activation memory while its layer runs.

    Attributes:
      header_bytes: What stands before a table.
      operator_bytes: What the decoding itself adds to the file.
      cycles_per_weight: Cycles of the target's clock for each weight.
    """

    header_bytes: Count
    operator_bytes: Count
    cycles_per_weight: NotNegative

    def stored_bytes(self, num_weights: int, bits: int) -> int | None:
        """Returns the bytes of indices and table; None where these save none.

        ``ceil(num_weights * bits / 8) + header_bytes + 2^bits - 1``: a table holds all
        values of a grid that is symmetric.
        """
        num_bytes = -(-num_weights * bits // 8) + self.header_bytes + 2**bits - 1
        is_smaller = bits < MAX_BITS and num_bytes + self.operator_bytes < num_weights
        return num_bytes if is_smaller else None


class Storage(Section):
    """How operands are stored, if not packed at the widths of the policy.

    Attributes:
      kernels: One entry for each width of weights that the target takes.
      tensor_bits: Width that every tensor of integers takes up, whatever its grid; of
        one with 16 bits these.
      decoding: How kernels are decoded before they are used; None if they are not. Then
        the bits of `kernels` are those of an index.
    """

    kernels: Annotated[tuple[StoredWidth, ...], Field(min_length=1)]
    tensor_bits: Width
    decoding: Decoding | None = None

    def stored_bits(self, weight_bits: int) -> float:
        """Returns the bits that a weight of a width takes up."""
        return next(
            entry.stored_bits
            for entry in self.kernels
            if entry.weight_bits == weight_bits
        )
