"""What the outputs of a network are, for those who use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from matar_tf.errors import ArtifactError, shown
from matar_tf.io.json_reader import JsonReader
from matar_tf.io.names import is_name

__all__ = ["OutputInfo", "outputs_from_json", "outputs_to_json"]

_READER: Final = JsonReader(ArtifactError)
_KEYS: Final = ("shape", "kind", "about")


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputInfo:
    """What an output is.

    Attributes:
      shape: Shape for one sample.
      kind: The function that makes its values: ``softmax``, ``sigmoid``, ``linear``.
      about: What they mean, in the words of the network's developer; "" if unknown.

    Raises:
      ArtifactError: If a text is none that can be printed in a line.
    """

    shape: tuple[int, ...]
    kind: str
    about: str = ""

    def __post_init__(self) -> None:
        for text in (self.kind, self.about):
            if not is_name(text):
                raise ArtifactError(
                    "Expected printable texts of one line for what an output is, got "
                    f"{shown(text)}; shorten it."
                )

    def __str__(self) -> str:
        about = f": {self.about}" if self.about else ""
        return f"{self.shape} {self.kind}{about}"


def outputs_to_json(outputs: Mapping[str, OutputInfo]) -> dict[str, Any]:
    """Returns the JSON object that `outputs_from_json` reads."""
    return {
        name: {"shape": list(one.shape), "kind": one.kind, "about": one.about}
        for name, one in outputs.items()
    }


def outputs_from_json(value: object) -> dict[str, OutputInfo]:
    """Reads what `outputs_to_json` returned.

    Raises:
      ArtifactError: If the document is malformed.
    """
    if not isinstance(value, dict) or not all(map(is_name, value)):
        raise ArtifactError(f"Expected outputs by name, got {shown(value)}.")
    found: dict[str, OutputInfo] = {}
    for name, one in value.items():
        entry = _READER.object(one, "output", _KEYS)
        shape = entry["shape"]
        if not isinstance(shape, list) or not all(type(size) is int for size in shape):
            raise ArtifactError(
                f"Expected integers as the shape of the output {name!r}, got "
                f"{shown(shape)}."
            )
        found[name] = OutputInfo(
            shape=tuple(shape),
            kind=_READER.field(entry, "kind", str),
            about=_READER.field(entry, "about", str),
        )
    return found
