"""Where the entries of a policy sit in the template of an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from matar_tf.errors import ArtifactError, shown
from matar_tf.io.json_reader import JsonReader

__all__ = ["KernelPiece", "KernelPlace", "TemplateMap"]

_READER: Final = JsonReader(ArtifactError)
_KEYS: Final = ("tensors", "kernels", "clamps", "before_clamps")
_FLOAT_KEYS: Final = ("islands", "pieces")  # of networks with layers in float alone
_PIECE_KEYS: Final = ("tensor", "offset", "sizes", "strides")


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelPlace:
    """Where a kernel sits in the template.

    Attributes:
      operator: Index of the operator.
      input: Activation entry of the operator's input; None for an input whose scale
        TFLite fixes.
      weights: Weight entry of the kernel where a layer is called once more; None for
        the entry that the place is named after.
    """

    operator: int
    input: str | None
    weights: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object that `from_json` reads."""
        document = {"operator": self.operator, "input": self.input}
        further = {} if self.weights is None else {"weights": self.weights}
        return {**document, **further}

    @classmethod
    def from_json(cls, value: object) -> KernelPlace:
        """Reads an object with all keys, ``weights`` if it has that."""
        is_further = isinstance(value, dict) and "weights" in value
        keys = ("operator", "input", *(("weights",) if is_further else ()))
        document = _READER.object(value, "kernel's place", keys)
        entry = document["input"]
        return cls(
            operator=_READER.field(document, "operator", int),
            input=None if entry is None else _READER.field(document, "input", str),
            weights=_READER.field(document, "weights", str) if is_further else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelPiece:
    """A constant of the template that holds values of a float layer's kernel.

    Its values, one after the other, are those of the kernel at ``offset + i0 *
    strides[0] + i1 * strides[1] + ...`` for all ``i0 < sizes[0]``, ``i1 < sizes[1]``
    and so on, the last index first: the kernel transposed, sliced, or both.

    Attributes:
      tensor: Index of the constant.
      offset: Place in the kernel of the first value.
      sizes: Number of steps along each axis of the view.
      strides: How far apart in the kernel they are.
    """

    tensor: int
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def last(self) -> int:
        """The largest place in the kernel."""
        pairs = zip(self.sizes, self.strides, strict=True)
        return self.offset + sum((size - 1) * stride for size, stride in pairs)

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object that `from_json` reads."""
        return {
            "tensor": self.tensor,
            "offset": self.offset,
            "sizes": list(self.sizes),
            "strides": list(self.strides),
        }

    @classmethod
    def from_json(cls, value: object) -> KernelPiece:
        """Reads what `to_json` returned."""
        document = _READER.object(value, "piece of a kernel", _PIECE_KEYS)
        piece = cls(
            tensor=_READER.field(document, "tensor", int),
            offset=_READER.field(document, "offset", int),
            sizes=_indices(document, "sizes"),
            strides=_indices(document, "strides"),
        )
        numbers = (piece.offset, *piece.strides, *(size - 1 for size in piece.sizes))
        if min(numbers) < 0 or len(piece.sizes) != len(piece.strides):
            raise ArtifactError(
                f"Expected sizes of at least 1, and an offset and as many strides of "
                f"at least 0 of a kernel's piece in the template_map, got "
                f"{shown(document)}; package the model again."
            )
        return piece


@dataclass(frozen=True, kw_only=True)
class TemplateMap:
    """The places in a template, in which a policy is filled in.

    Attributes:
      tensors: Activation entry of each tensor, by tensor index.
      kernels: Place of each weight entry, and of each further call of its layer, by
        the call's name.
      clamps: Indices of the QUANTIZE operators that cut off what lies below the lowest
        level of signed tensors, by activation entry.
      before_clamps: Indices of tensors that a clamp has not reached yet.
      islands: Indices of the operators of each layer that stays in float, by its name.
      pieces: Where the kernel of a float layer lies, by weight entry.
    """

    tensors: Mapping[int, str]
    kernels: Mapping[str, KernelPlace]
    clamps: Mapping[str, tuple[int, ...]]
    before_clamps: tuple[int, ...]
    islands: Mapping[str, tuple[int, ...]] = field(
        default_factory=dict[str, tuple[int, ...]]
    )
    pieces: Mapping[str, tuple[KernelPiece, ...]] = field(
        default_factory=dict[str, tuple[KernelPiece, ...]]
    )

    def calls(self, entry: str) -> tuple[str, ...]:
        """Returns the names of the further calls of a weight entry's layer."""
        return tuple(
            name for name, place in self.kernels.items() if place.weights == entry
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object that `from_json` reads."""
        document: dict[str, Any] = {
            "tensors": {str(index): name for index, name in self.tensors.items()},
            "kernels": {name: place.to_json() for name, place in self.kernels.items()},
            "clamps": {name: list(indices) for name, indices in self.clamps.items()},
            "before_clamps": list(self.before_clamps),
        }
        if self.islands:
            document["islands"] = {name: list(at) for name, at in self.islands.items()}
        if self.pieces:
            document["pieces"] = {
                name: [one.to_json() for one in pieces]
                for name, pieces in self.pieces.items()
            }
        return document

    @classmethod
    def from_json(cls, value: object) -> TemplateMap:
        """Reads what `to_json` returned.

        Raises:
          ArtifactError: If a key is missing or unknown, or a value of another kind.
        """
        given: object = value
        if isinstance(value, dict):
            known = cast("dict[str, object]", value)
            given = {**{key: {} for key in _FLOAT_KEYS}, **known}
        document = _READER.object(given, "template_map", (*_KEYS, *_FLOAT_KEYS))
        tensors = _READER.field(document, "tensors", dict)
        clamps = _READER.field(document, "clamps", dict)
        kernels = _READER.field(document, "kernels", dict)
        islands = _READER.field(document, "islands", dict)
        pieces = _READER.field(document, "pieces", dict)
        return cls(
            tensors={_index(key): _READER.field(tensors, key, str) for key in tensors},
            kernels={
                name: KernelPlace.from_json(place) for name, place in kernels.items()
            },
            clamps={name: _indices(clamps, name) for name in clamps},
            before_clamps=_indices(document, "before_clamps"),
            islands={name: _indices(islands, name) for name in islands},
            pieces={
                name: tuple(
                    KernelPiece.from_json(one)
                    for one in _READER.field(pieces, name, list)
                )
                for name in pieces
            },
        )


def _index(key: str) -> int:
    # As `to_json` writes it, so that reading and writing are inverse.
    if not (key.isascii() and key.isdecimal() and str(int(key)) == key):
        raise ArtifactError(
            f"Expected indices of tensors in the template_map, got {key[:80]!r}; "
            "package the model again."
        )
    return int(key)


def _indices(document: Mapping[str, Any], key: str) -> tuple[int, ...]:
    values = _READER.field(document, key, list)
    if not all(type(value) is int for value in values):
        raise ArtifactError(
            f"Expected a list of indices under {key!r} in the template_map, got "
            f"{shown(values)}; package the model again."
        )
    return tuple(values)
