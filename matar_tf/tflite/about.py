"""What an artifact says of inputs and outputs, as its files carry it: how to feed them.

The graph tells shapes and types. This is what it cannot tell: the range, layout and
order of colours of the samples, what outputs mean, what classes are called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from matar_tf.card import CARD_KEY, ModelCard
from matar_tf.errors import ExportError, shown
from matar_tf.inputs import InputInfo
from matar_tf.packaged import Artifact
from matar_tf.tflite.ends import Output

__all__ = [
    "ABOUT_KEY",
    "About",
    "InputAbout",
    "about_artifact",
    "about_file",
    "card_of",
]

ABOUT_KEY: Final = "about"
_KEYS: Final = ("inputs", "outputs", "class_names", "preprocessing")
_INPUT_KEYS: Final = ("range", "layout", "channels")
_ENDS: Final = 2  # of a range
_MOST_VALUE: Final = 1e300
_MOST_IN_FLASH: Final = 1024  # bytes of class names in a microcontroller's file


@dataclass(frozen=True, kw_only=True, slots=True)
class InputAbout:
    """What samples of an input are.

    Attributes:
      low: Their smallest value at training.
      high: Their largest value.
      layout: What the axes are: ``NHWC``; "" of a vector.
      channels: What the channels are, in order: ``RGB``; "" if nobody says.
    """

    low: float
    high: float
    layout: str = ""
    channels: str = ""

    def __str__(self) -> str:
        ends = f"{self.low:.6g} to {self.high:.6g}"
        return ", ".join(one for one in (ends, self.layout, self.channels) if one)


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What a file says of its inputs and outputs; empty where nobody says.

    Attributes:
      inputs: Samples of inputs, by name.
      outputs: What outputs mean, in the words of the network's developer, by name.
      class_names: What the classes are called, in order.
      preprocessing: How samples become what the network takes, in words.
    """

    inputs: Mapping[str, InputAbout] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    preprocessing: str = ""

    def named_output(self, outputs: Sequence[Output]) -> Output | None:
        """Returns the output whose last axis is the classes; None if it is not sure."""
        number = len(self.class_names)
        found = [one for one in outputs if number and one.shape[-1:] == (number,)]
        return found[0] if len(found) == 1 else None


def card_of(artifact: Artifact) -> ModelCard:
    """Returns what the maker of a network says of it.

    Raises:
      ArtifactError: If what the artifact holds as a card is none.
    """
    return ModelCard.from_json(artifact.provenance.get(CARD_KEY, {}))


def about_artifact(artifact: Artifact, profile: str) -> dict[str, Any]:
    """Returns what files of an artifact are given as metadata: nothing if it says none.

    Files of microcontrollers, which stand in flash, hold class names of up to a KiB.

    Raises:
      ArtifactError: If what it holds as a card is none.
    """
    card = card_of(artifact)
    names = list(card.class_names)
    if profile == "tflm" and len(json.dumps(names)) > _MOST_IN_FLASH:
        names = []
    said = {
        "inputs": {name: _input(one) for name, one in artifact.inputs.items()},
        "outputs": {
            name: one.about for name, one in artifact.outputs.items() if one.about
        },
        "class_names": names,
        "preprocessing": card.preprocessing,
    }
    found = {key: value for key, value in said.items() if value}
    return {ABOUT_KEY: found} if found else {}


def _input(info: InputInfo) -> dict[str, Any]:
    words = {"layout": info.layout, "channels": info.channels}
    return {
        "range": [_short(info.low), _short(info.high)],
        **{key: text for key, text in words.items() if text},
    }


def _short(value: float) -> float | int:
    """Returns a whole number as one: fractions take 24 bytes in a file."""
    return int(value) if value == int(value) else value


def about_file(metadata: Mapping[str, Any]) -> About:
    """Returns what a file says, given its metadata.

    Raises:
      ExportError: If it is something else than `about_artifact` returns.
    """
    said = _object(metadata.get(ABOUT_KEY, {}), _KEYS)
    names = said.get("class_names", [])
    if not isinstance(names, list):
        raise _refused(names)
    return About(
        inputs={
            _text(name): _input_from(one)
            for name, one in _object(said.get("inputs", {})).items()
        },
        outputs={
            _text(name): _text(one)
            for name, one in _object(said.get("outputs", {})).items()
        },
        class_names=tuple(map(_text, names)),
        preprocessing=_text(said.get("preprocessing", "")),
    )


def _input_from(value: object) -> InputAbout:
    said = _object(value, _INPUT_KEYS)
    ends = said.get("range")
    if not isinstance(ends, list) or not _is_range(ends):
        raise _refused(value)
    return InputAbout(
        low=float(ends[0]),
        high=float(ends[1]),
        layout=_text(said.get("layout", "")),
        channels=_text(said.get("channels", "")),
    )


def _is_range(ends: Sequence[Any]) -> bool:
    are_numbers = all(type(one) in (int, float) for one in ends)
    return are_numbers and len(ends) == _ENDS and max(map(abs, ends)) <= _MOST_VALUE


def _object(value: object, known: tuple[str, ...] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict) or not set(value) <= set(known or value):
        raise _refused(value)
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _refused(value)
    return value


def _refused(value: object) -> ExportError:
    return ExportError(
        f"Expected ranges, texts and class names under {ABOUT_KEY!r} in the metadata "
        f"of the file, got {shown(value)}; export it again."
    )
