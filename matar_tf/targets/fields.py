"""Types of single figures, and the table that carries a source, for target files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from matar_tf.policy import MAX_BITS, MIN_BITS, WIDE_BITS
from matar_tf.workload import OpKind

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "MAX_COUNT",
    "MAX_FIGURE",
    "MAX_THREADS",
    "MIN_FIGURE",
    "MULTIPLY_KINDS",
    "ActivationWidth",
    "ActivationWidths",
    "Count",
    "Kinds",
    "NotNegative",
    "Positive",
    "Section",
    "Text",
    "Width",
    "Widths",
]

MULTIPLY_KINDS: Final = frozenset(
    {OpKind.CONV, OpKind.DEPTHWISE_CONV, OpKind.TRANSPOSED_CONV, OpKind.DENSE}
)

MAX_COUNT: Final = 2**53  # larger whole numbers are not exact as floats
MAX_THREADS: Final = 1024  # that `matar_tf.tflite.runtime` takes
# Far beyond hardware on both sides; sums, products and quotients stay finite.
MIN_FIGURE: Final = 1e-15
MAX_FIGURE: Final = 1e15


def _check_printable(text: str) -> str:
    if not text.replace("\n", "").replace("\t", "").isprintable():
        raise ValueError(f"expected characters that can be printed, got {text!r}")
    return text


Text: TypeAlias = Annotated[
    str, Field(min_length=1, max_length=2000), AfterValidator(_check_printable)
]


def _check_width(bits: int) -> int:
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(
            f"expected a number of bits in {MIN_BITS}..{MAX_BITS}, got {bits}"
        )
    return bits


def _check_activation_width(bits: int) -> int:
    if bits != WIDE_BITS and not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(
            f"expected a number of bits in {MIN_BITS}..{MAX_BITS}, or {WIDE_BITS}, "
            f"got {bits}"
        )
    return bits


def _check_not_tiny(figure: float) -> float:
    if figure < MIN_FIGURE:
        raise ValueError(f"expected at least {MIN_FIGURE:g}, got {figure:g}")
    return figure


def _check_distinct(widths: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(widths)) != len(widths):
        raise ValueError(f"expected distinct widths, got {list(widths)}")
    return widths


Width: TypeAlias = Annotated[int, AfterValidator(_check_width)]
ActivationWidth: TypeAlias = Annotated[int, AfterValidator(_check_activation_width)]
Widths: TypeAlias = Annotated[
    tuple[Width, ...], Field(min_length=1), AfterValidator(_check_distinct)
]
ActivationWidths: TypeAlias = Annotated[
    tuple[ActivationWidth, ...], Field(min_length=1), AfterValidator(_check_distinct)
]
Kinds: TypeAlias = Annotated[tuple[OpKind, ...], Field(min_length=1)]
Count: TypeAlias = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Positive: TypeAlias = Annotated[
    float, Field(gt=0, le=MAX_FIGURE), AfterValidator(_check_not_tiny)
]
NotNegative: TypeAlias = Annotated[float, Field(ge=0, le=MAX_FIGURE)]


class Section(BaseModel):
    """A table of a target file.

    Attributes:
      source: Where the figures of this table come from.
      assumed: Keys of this table whose figures are assumptions.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )

    source: Text
    assumed: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_assumed(self) -> Self:
        for key in self.assumed:
            if key not in self.model_fields_set - {"source", "assumed"}:
                raise ValueError(f"assumed names {key!r}, which is not set here")
        return self
