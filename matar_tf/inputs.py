"""What the inputs of a network look like, for those who feed it samples of their own.

Figures of the samples that its developer used, no sample: their range, and mean and
deviation of each channel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from matar_tf.errors import ArtifactError, shown
from matar_tf.io.json_reader import JsonReader
from matar_tf.io.names import is_name

__all__ = ["InputInfo", "inputs_from_json", "inputs_to_json"]

_READER: Final = JsonReader(ArtifactError)
_KEYS: Final = ("shape", "low", "high", "mean", "deviation", "num_samples", "channels")
_MOST_CHANNELS: Final = 64  # with figures of their own
_DIGITS: Final = 6  # of what is kept of a figure
_LAYOUTS: Final = {2: "steps, channels", 3: "NHWC", 4: "NDHWC"}


@dataclass(frozen=True, kw_only=True, slots=True)
class InputInfo:
    """What samples of an input were, where the network was made.

    Attributes:
      shape: Shape of one sample.
      low: Their smallest value.
      high: Their largest value.
      mean: Mean of each channel, the last axis; one number for all of more than 64.
      deviation: Standard deviations likewise.
      num_samples: How many there were.
      channels: What the channels are, in order: ``RGB``; "" if nobody says.

    Raises:
      ArtifactError: If a figure cannot be one of samples of this shape.
    """

    shape: tuple[int, ...]
    low: float
    high: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    num_samples: int
    channels: str = ""

    def __post_init__(self) -> None:
        figures = (self.low, self.high, *self.mean, *self.deviation)
        number = _num_figures(self.shape)
        if (
            not all(map(math.isfinite, figures))
            or self.low > self.high
            or len(self.mean) != number
            or len(self.deviation) != number
            or min(self.deviation) < 0
            or type(self.num_samples) is not int
            or self.num_samples < 1
        ):
            raise ArtifactError(
                f"Expected range, mean and deviation of {number} channels of some "
                f"samples of shape {self.shape}, got {self.low}..{self.high}, "
                f"{shown(self.mean)} and {shown(self.deviation)} of "
                f"{shown(self.num_samples)}; package the model again."
            )
        if not is_name(self.channels):
            raise ArtifactError(
                "Expected a printable text of one line for what channels are, such as "
                f"RGB, got {shown(self.channels)}; shorten it."
            )

    def __str__(self) -> str:
        channels = f" {self.channels}" if self.channels else ""
        means = ", ".join(f"{one:.4g}" for one in self.mean)
        return f"{self.shape}{channels}, {self.low:.4g}..{self.high:.4g}, mean {means}"

    @property
    def layout(self) -> str:
        """What the axes are, as Keras has them; "" of a vector."""
        return _LAYOUTS.get(len(self.shape), "")

    @classmethod
    def of(cls, samples: np.ndarray) -> InputInfo:
        """Returns what samples are, ``[num_samples, ...]``, as a network takes them."""
        shape = samples.shape[1:]
        axes = tuple(range(samples.ndim - (_num_figures(shape) > 1)))
        mean = np.mean(samples, axis=axes, dtype=np.float64)
        deviation = np.std(samples, axis=axes, dtype=np.float64)
        return cls(
            shape=shape,
            low=_rounded(samples.min()),
            high=_rounded(samples.max()),
            mean=tuple(map(_rounded, np.ravel(mean))),
            deviation=tuple(map(_rounded, np.ravel(deviation))),
            num_samples=len(samples),
        )


def _num_figures(shape: tuple[int, ...]) -> int:
    """Returns how many channels have figures of their own."""
    return shape[-1] if shape and 0 < shape[-1] <= _MOST_CHANNELS else 1


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def inputs_to_json(inputs: Mapping[str, InputInfo]) -> dict[str, Any]:
    """Returns the JSON object that `inputs_from_json` reads."""
    return {
        name: {
            "shape": list(one.shape),
            "low": one.low,
            "high": one.high,
            "mean": list(one.mean),
            "deviation": list(one.deviation),
            "num_samples": one.num_samples,
            "channels": one.channels,
        }
        for name, one in inputs.items()
    }


def inputs_from_json(value: object) -> dict[str, InputInfo]:
    """Reads what `inputs_to_json` returned.

    Raises:
      ArtifactError: If the document is malformed.
    """
    if not isinstance(value, dict) or not all(map(is_name, value)):
        raise ArtifactError(f"Expected inputs by name, got {shown(value)}.")
    found: dict[str, InputInfo] = {}
    for name, one in value.items():
        entry = _READER.object(one, "input", _KEYS)
        found[name] = InputInfo(
            shape=tuple(_numbers(entry["shape"], name, (int,))),
            low=_numbers([entry["low"]], name)[0],
            high=_numbers([entry["high"]], name)[0],
            mean=tuple(_numbers(entry["mean"], name)),
            deviation=tuple(_numbers(entry["deviation"], name)),
            num_samples=_READER.field(entry, "num_samples", int),
            channels=_READER.field(entry, "channels", str),
        )
    return found


def _numbers(
    value: Any, name: str, types: tuple[type, ...] = (int, float)
) -> list[Any]:
    if not isinstance(value, list) or not all(type(one) in types for one in value):
        raise ArtifactError(
            f"Expected numbers as figures of the input {name!r}, got {shown(value)}."
        )
    return value
