"""Whether a grid fits the tensors that training puts on it: pure functions.

A grid starts from one batch, and that may be unlike all others: 100 times quieter, or
dirty. So every training pass looks at some values of each tensor. A look doubts the
grid if many values lie outside of its range, or if none reaches a sixteenth of it,
which leaves four of eight bits unused. Doubts rise by one with such a look and fall by
one with any other, so that no batch alone undoes what the others say; at `_MOST_DOUBTS`
the grid is set anew.

The state of a grid is one int32, the variable ``initialized``: 0 without steps, else 1
plus the doubts, plus flags.
"""

from __future__ import annotations

from typing import Any, Final

from matar_tf.keras._compat import Tensor, tf

__all__ = [
    "FLAG_NEGATIVE",
    "FLAG_SET_ANEW",
    "NEW_STATE",
    "SET_STATE",
    "SILENT_STATE",
    "flag_negative",
    "has_doubts",
    "has_no_values_yet",
    "has_values",
    "largest_ordinary",
    "misfit",
    "next_state",
    "some_values",
    "state_once_set",
    "unused_below",
    "wants_steps",
]

_NUM_VALUES = 4096  # of a tensor, for each look
_RARE = 20  # at most one of so many samples is dirty
_FEWEST = 8  # samples, of which one can be told to be unlike the others
_MOST_DOUBTS = 8
_DOUBTS_OF_ONE_BATCH = 6  # two batches that say otherwise outvote it
_UNUSED_SHARE = 1.0 / 16.0
_SLACK = 17.0 / 16.0  # what is a little outside is no sign of another size
_SATURATED_SHARE = 0.5
_SATURATED_SHARE_OF_FIXED = 1.0 / 32.0

_FLAGS = 16  # and what is above; below is the rest
SET_STATE: Final = 1  # by all calibration samples
NEW_STATE: Final = 1 + _DOUBTS_OF_ONE_BATCH  # by one batch of training
SILENT_STATE: Final = 15  # by a batch of zeros: the next one with values decides
FLAG_NEGATIVE: Final = _FLAGS  # there were many values below 0, where no level is
FLAG_SET_ANEW: Final = 2 * _FLAGS  # in training


def some_values(x: Tensor) -> Tensor:
    """Returns some values of a tensor, ``[num_values]``, from all channels alike."""
    # An odd stride visits every channel where sizes are powers of two.
    stride = tf.bitwise.bitwise_or(tf.maximum(tf.size(x) // _NUM_VALUES, 1), 1)
    return tf.reshape(x, (-1,))[::stride]


def largest_ordinary(sizes: Tensor, ratio: float) -> Tensor:
    """Returns the size above which a sample is dirty, a scalar.

    Samples are compared, not values: a few values that are far larger than all others,
    in every sample, are what a network lives on where inputs are spectra or stars.

    Args:
      sizes: Largest magnitude of each sample, ``[num_samples]``; 0 for silence, which
        tells nothing of others.
      ratio: How many times as large as 19 of 20 samples a dirty one is.
    """
    num_alive = tf.math.count_nonzero(sizes, dtype=tf.int32)
    num_rare = tf.where(num_alive < _FEWEST, 0, tf.maximum(num_alive // _RARE, 1))
    return ratio * tf.gather(tf.sort(sizes), tf.size(sizes) - 1 - num_rare)


def misfit(
    values: Tensor,
    step: Tensor,
    low: int,
    high: int,
    *,
    is_fixed: bool,
    largest: Tensor | None = None,
) -> Tensor:
    """Returns 1 if a grid does not fit some values, -1 if it does, 0 if all are zero.

    Args:
      values: Shape ``[num_values]``.
      step: Of the widest width, a scalar.
      low: Lowest level.
      high: Highest level.
      is_fixed: Whether nothing but this will move the step. A step that is learned may
        have its reasons, and only gross misfits count: half of the values saturate.
      largest: Largest magnitude of all of the tensor, default that of the values.
    """
    share = _SATURATED_SHARE
    if is_fixed:  # narrow widths saturate some values at their best
        share = max(1.0 / (high - low + 1), _SATURATED_SHARE_OF_FIXED)
    # The best step of a signed grid has the largest value at 128 of -128..127.
    reach = max(high, -low)
    most = _SLACK * reach + 0.5
    levels = values / step
    within = tf.clip_by_value(levels, -most, most)
    num_saturated = tf.math.count_nonzero(levels - within, dtype=tf.int32)
    num_values = tf.math.count_nonzero(levels, dtype=tf.int32)
    limit = share * tf.cast(num_values, tf.float32)
    is_narrow = tf.cast(num_saturated, tf.float32) > limit
    most_used = tf.reduce_max(tf.abs(levels)) if largest is None else largest / step
    is_wide = most_used < unused_below(low, high)
    sign = tf.where(is_narrow | is_wide, 1, -1)
    return tf.where(num_values > 0, sign, 0)


def unused_below(low: int, high: int) -> float:
    """Returns the level that values must reach, or a grid is too wide for them."""
    return max(0.5, _UNUSED_SHARE * max(high, -low))


def next_state(state: Tensor, found: Tensor) -> Tensor:
    """Returns the state of a grid with steps after a look that found a `misfit`."""
    doubts = tf.clip_by_value(_doubts(state) + found, 0, _MOST_DOUBTS)
    moved = state - state % _FLAGS + SET_STATE + doubts
    return tf.where(tf.equal(found, 0), state, moved)


def wants_steps(state: Tensor, found: Tensor) -> Tensor:
    """Returns whether a grid is to be set from a batch that a look found so."""
    is_outvoted = tf.not_equal(found, 0) & (_doubts(state) + found >= _MOST_DOUBTS)
    return tf.equal(state, 0) | is_outvoted


def has_no_values_yet(state: Tensor) -> Tensor:
    """Returns whether a grid has no steps, or those for a tensor of zeros."""
    return tf.equal(state, 0) | tf.equal(state % _FLAGS, SILENT_STATE)


def state_once_set(state: Tensor, *, is_silent: Tensor, moves: Tensor) -> Tensor:
    """Returns the state of a grid after a batch of training was to set its steps.

    Args:
      state: That before.
      is_silent: Whether the batch was all zero.
      moves: Whether the steps are now other ones.
    """
    flags = state - state % _FLAGS
    anew = tf.bitwise.bitwise_or(flags, FLAG_SET_ANEW) + NEW_STATE
    after = tf.where(moves, anew, flags + SET_STATE)
    after = tf.where(has_no_values_yet(state), flags + NEW_STATE, after)
    return tf.where(is_silent, flags + SILENT_STATE, after)


def flag_negative(state: Tensor, values: Tensor) -> Tensor:
    """Returns a state with its flag set if many of the values are below 0."""
    num_values = tf.math.count_nonzero(values, dtype=tf.int32)
    num_negative = tf.math.count_nonzero(values < 0.0, dtype=tf.int32)
    limit = _SATURATED_SHARE_OF_FIXED * tf.cast(num_values, tf.float32)
    flag = tf.where(tf.cast(num_negative, tf.float32) > limit, FLAG_NEGATIVE, 0)
    return tf.bitwise.bitwise_or(state, flag)


def has_values(state: int) -> bool:
    """Returns whether the steps of a grid come from values other than 0."""
    return state > 0 and state % _FLAGS != SILENT_STATE


def has_doubts(state: int) -> bool:
    """Returns whether the last looks found that a grid does not fit."""
    return _DOUBTS_OF_ONE_BATCH < _doubts(state) <= _MOST_DOUBTS


def _doubts(state: Any) -> Any:
    return state % _FLAGS - SET_STATE
