"""Samples beside those that a network was made with: whether they have another scale.

A grid takes whatever lies within it, such as samples of 0..1 in the place of -1..1. The
developer's samples, if the artifact says what they were, tell that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from matar_tf.data import Data
from matar_tf.errors import INSIST, OddDataError
from matar_tf.inputs import InputInfo

__all__ = ["scale_note"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    """A range that samples often have, and how it is told in others.

    Attributes:
      low: Its lowest value.
      high: Its highest value.
      of_unit: How Python makes its values of those of 0..1, ``u``.
    """

    low: float
    high: float
    of_unit: str


_UNIT: Final = _Scale(low=0.0, high=1.0, of_unit="{u}")
_SIGNED: Final = _Scale(low=-1.0, high=1.0, of_unit="2 * {u} - 1")
_OF_BYTES: Final = _Scale(low=0.0, high=255.0, of_unit="255 * {u}")
_AS_UNIT: Final = {_UNIT: "x", _SIGNED: "(x + 1) / 2", _OF_BYTES: "x / 255"}
_CLOSE: Final = 0.02  # of a scale's range, to its ends
_ENDS: Final = (0.01, 0.99)  # quantiles of values, beyond which some may be dirty
_MOST_VALUES: Final = 1 << 20  # that these are taken of
_MOST_SAMPLES: Final = 2048  # that means are taken of


def scale_note(data: Data, info: InputInfo | None) -> str | None:
    """Returns what is odd about samples beside those of the network's developer.

    Args:
      data: Its evaluation samples count, those of this input.
      info: What the developer left of it, or None.

    Returns:
      A sentence if a channel's mean is further than a deviation from the developer's.

    Raises:
      OddDataError: If the developer's samples have one of the usual ranges, 0..1,
        -1..1 and 0..255, and these another.
    """
    samples: Any = data.x_test
    if info is None or samples.dtype.kind != "f":
        return None
    ours = next((one for one in _AS_UNIT if _is_scale(info, one)), None)
    theirs = None if ours is None else _other_scale(samples, ours)
    if ours is not None and theirs is not None:
        raise OddDataError(
            f"Expected samples of {ours.low:g}..{ours.high:g}, as those that this "
            f"network was made with, got {float(samples.min()):.4g}.."
            f"{float(samples.max()):.4g} in {data.name!r}, as if of "
            f"{theirs.low:g}..{theirs.high:g}; give {_rescaled(theirs, ours)}, or "
            f"{INSIST}."
        )
    return _mean_note(data, info)


def _is_scale(info: InputInfo, scale: _Scale) -> bool:
    near = _CLOSE * (scale.high - scale.low)
    return abs(info.low - scale.low) <= near and abs(info.high - scale.high) <= near


def _other_scale(samples: np.ndarray, ours: _Scale) -> _Scale | None:
    """Returns which other scale samples have, if they clearly do."""
    low, high = float(samples.min()), float(samples.max())
    values = samples.ravel()[:: max(1, samples.size // _MOST_VALUES)]
    values = values[values != 0.0]
    if not values.size:
        return None
    first, last = (float(one) for one in np.quantile(values, _ENDS))
    is_like = {
        # Most of 0..1 is in -1..1, too: only what begins at 0 and fills it is not.
        _UNIT: low >= 0.0
        and last <= 1.0 + _CLOSE
        and (ours is not _SIGNED or (low <= _CLOSE and last >= 0.9)),
        _SIGNED: -1.0 - _CLOSE <= first <= -0.5 and 0.5 <= last <= 1.0 + _CLOSE,
        _OF_BYTES: low >= 0.0 and last >= 32.0 and high <= 255.0,
    }
    found = (one for one, is_it in is_like.items() if is_it and one is not ours)
    return next(found, None)


def _rescaled(theirs: _Scale, ours: _Scale) -> str:
    """Returns how samples of one scale become those of another, in Python."""
    unit = _AS_UNIT[theirs]
    if ours is _UNIT:
        return unit
    return ours.of_unit.format(u=unit if theirs is _UNIT else f"({unit})")


def _mean_note(data: Data, info: InputInfo) -> str | None:
    samples: Any = data.x_test
    found = InputInfo.of(samples[:: -(-len(samples) // _MOST_SAMPLES)])
    if found.shape != info.shape:
        return None
    ours, theirs = np.array(info.mean), np.array(found.mean)
    away = np.abs(theirs - ours) - np.maximum(info.deviation, found.deviation)
    worst = int(np.argmax(away))
    if away[worst] <= 0:
        return None
    channel = f" of channel {worst}" if len(ours) > 1 else ""
    return (
        f"The mean{channel} of {data.name!r} is {theirs[worst]:.4g}, where the samples "
        f"that this network was made with have {ours[worst]:.4g}; check that they are "
        "prepared as those."
    )
