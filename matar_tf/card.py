"""What the maker of a network says of it, in words: for those who retarget it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, cast

from matar_tf.errors import ArtifactError, shown

__all__ = ["CARD_KEY", "ModelCard"]

CARD_KEY: Final = "card"  # in the provenance of an artifact
_MAX_CHARS: Final = 4000  # of a text
_MAX_CLASSES: Final = 1 << 16


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a network is for, who made it, how it is fed; empty where nobody says.

    Reference:
      Mitchell et al., Model Cards for Model Reporting, 2019.

    Attributes:
      description: What it does.
      intended_use: What it is meant for, and what not.
      author: Who made it.
      license: Under which terms it may be used, as an SPDX identifier or in words.
      training_data: What it was trained on.
      preprocessing: How samples become what it takes: range, mean, layout, order of
        colours, window.
      class_names: What the classes are called, in order.

    Raises:
      ArtifactError: If one is no text of up to 4,000 characters, or there are more than
        65,536 class names, or two are equal.
    """

    description: str = ""
    intended_use: str = ""
    author: str = ""
    license: str = ""
    training_data: str = ""
    preprocessing: str = ""
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = self.class_names
        if isinstance(names, (str, bytes)) or not isinstance(names, Sequence):
            raise ArtifactError(
                f"Expected a list of texts for class_names=, got {shown(names)}."
            )
        object.__setattr__(self, "class_names", tuple(names))
        texts = {name: getattr(self, name) for name in self.texts()}
        for name, text in (*texts.items(), *(("class_names", one) for one in names)):
            if not isinstance(text, str) or len(text) > _MAX_CHARS:
                raise ArtifactError(
                    f"Expected a text of at most {_MAX_CHARS} characters for {name}=, "
                    f"got {shown(text)}."
                )
        if len(names) > _MAX_CLASSES or len(set(names)) < len(names):
            raise ArtifactError(
                f"Expected at most {_MAX_CLASSES} different class_names=, got "
                f"{len(names)} of which {len(set(names))} differ; name each class once."
            )

    @classmethod
    def texts(cls) -> tuple[str, ...]:
        """Returns the names of all that is said in one text."""
        return tuple(one.name for one in fields(cls) if one.name != "class_names")

    def to_json(self) -> dict[str, Any]:
        """Returns what is said, as JSON."""
        said = {name: getattr(self, name) for name in self.texts()}
        said = {name: text for name, text in said.items() if text}
        names = {"class_names": list(self.class_names)} if self.class_names else {}
        return {**said, **names}

    @classmethod
    def from_json(cls, value: object) -> ModelCard:
        """Reads what `to_json` made.

        Raises:
          ArtifactError: If it is something else.
        """
        known = [one.name for one in fields(cls)]
        if not isinstance(value, Mapping) or not set(value) <= set(known):
            raise ArtifactError(
                f"Expected an object of {', '.join(known)} as card, got "
                f"{shown(value)}; package the model again."
            )
        return cls(**cast("dict[str, Any]", dict(value)))
