"""What `matar_tf.data` checks of arrays: samples, labels, numbers of classes.

Errors are `DataError`; they name the data, and say what to give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import numpy as np

from matar_tf.errors import DataError
from matar_tf.named_arrays import Arrays

__all__ = [
    "as_array",
    "check_classes",
    "checked_labels",
    "checked_samples",
    "each_named",
    "is_one_hot",
    "keys_of_bytes",
]

_LARGEST_LABEL: Final = int(np.iinfo(np.int64).max)


def each_named(
    check: Callable[[str, str, np.ndarray], np.ndarray], name: str, key: str, value: Any
) -> Arrays:
    """Returns what a check makes of an array, or of each of a mapping by names.

    Args:
      check: Function of the name of the data, the key, and an array.
      name: Of the data, for errors.
      key: What the arrays are: ``x_test``.
      value: What was given.
    """
    if not isinstance(value, Mapping):
        return check(name, key, as_array(name, key, value))
    given: dict[Any, Any] = dict(value)
    if not given or not all(isinstance(one, str) and one for one in given):
        raise DataError(
            f"Expected arrays by the names of inputs or outputs in {key} of {name!r}, "
            f"got the keys {list(given)}; name them as the network does."
        )
    return {
        one: check(name, f"{key}/{one}", as_array(name, f"{key}/{one}", array))
        for one, array in given.items()
    }


def keys_of_bytes(name: str, key: str, value: Any) -> set[str]:
    """Returns the key of samples, or those by name, that are unsigned bytes."""
    given: dict[str, Any] = {key: value}
    if isinstance(value, Mapping):
        given = {f"{key}/{one}": array for one, array in value.items()}
    return {k for k, one in given.items() if as_array(name, k, one).dtype == np.uint8}


def as_array(name: str, key: str, value: Any) -> np.ndarray:
    """Returns what is given under a key as an array."""
    if np.ma.is_masked(value):
        raise DataError(
            f"Expected an array without a mask in {key} of {name!r}, got a masked one, "
            "whose mask would be lost; leave the masked samples out."
        )
    try:
        return np.asarray(value)
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(value, (list, tuple)):
            parts = cast("Sequence[object]", value)
            raise DataError(
                f"Expected an array in {key} of {name!r}, got a {type(value).__name__} "
                f"of {len(parts)} whose parts have several shapes; give all samples "
                "one shape, and the arrays of several inputs or outputs as a mapping "
                "by their names."
            ) from error
        raise DataError(
            f"Expected an array in {key} of {name!r}, but: {error}; give all samples "
            "one shape."
        ) from error


def checked_samples(name: str, key: str, samples: np.ndarray) -> np.ndarray:
    """Returns samples as finite float32, unsigned bytes divided by 255; or as int32."""
    if samples.ndim < 2 or not len(samples):
        raise DataError(
            f"Expected samples of shape [num_samples, ...] in {key} of {name!r}, "
            f"got {samples.shape}; give one sample or more along the first axis."
        )
    if samples.dtype == np.uint8:
        return samples.astype(np.float32) / np.float32(255.0)
    if samples.dtype.kind in "iu" and _fits_int32(samples):
        return samples.astype(np.int32, copy=False)
    if samples.dtype.kind != "f":
        raise DataError(
            f"Expected floats or unsigned bytes in {key} of {name!r}, got "
            f"{samples.dtype}; give x.astype('float32'), scaled as at training, or "
            "x.astype('uint8')."
        )
    return _finite(samples, f"samples in {key} of {name!r}")


def _fits_int32(values: np.ndarray) -> bool:
    ends = np.iinfo(np.int32)
    return ends.min <= int(values.min()) and int(values.max()) <= ends.max


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    """Returns values as float32, all finite."""
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise DataError(
            f"Expected finite {what}, got NaN or infinity as float32; remove or mend "
            "them."
        )
    return values


def checked_labels(
    name: str, key: str, labels: np.ndarray, *, num_samples: int
) -> np.ndarray:
    """Returns labels as int64 or finite float32, one or an array for each sample."""
    if labels.shape[:1] != (num_samples,) or labels.dtype.kind not in "biuf":
        raise DataError(
            f"Expected {num_samples} labels, integers or floats, in {key} of "
            f"{name!r}, got shape {labels.shape} and type {labels.dtype}; give one, or "
            "an array of one shape, for each sample."
        )
    if labels.dtype.kind == "f":
        return _finite(labels, f"labels in {key} of {name!r}")
    if labels.size and int(labels.max()) > _LARGEST_LABEL:
        raise DataError(
            f"Expected labels of at most {_LARGEST_LABEL} in {key} of {name!r}, got "
            f"{int(labels.max())}; number the classes from 0."
        )
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    return labels.astype(np.int64, copy=False)


def check_classes(
    name: str,
    part: str,
    labels: np.ndarray,
    shape: tuple[int, ...],
    num_classes: int | None = None,
) -> None:
    """Checks that labels are numbers of classes.

    Args:
      name: Of the data, for errors.
      part: ``test`` or ``train``.
      labels: As `Data` has them.
      shape: That they are to have: one for each sample, or for each place of it.
      num_classes: How many there are; None if nobody knows.

    Raises:
      DataError: If they are not.
    """
    if labels.shape != shape or labels.dtype.kind != "i":
        raise DataError(
            f"Expected {' x '.join(map(str, shape))} integer labels in y_{part} of "
            f"{name!r}, got shape {labels.shape} and type {labels.dtype}; "
            f"{_label_hint(labels, shape)}."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        known = "from 0 on" if num_classes is None else f"in 0..{num_classes - 1}"
        raise DataError(
            f"Expected labels {known} for this network, got {low}..{high} in {name!r}; "
            "number the classes as at training, from 0, or name the data that it is "
            "for."
        )


def _label_hint(labels: np.ndarray, shape: tuple[int, ...]) -> str:
    """Returns what to do with labels that are no classes."""
    if labels.shape == shape:
        return "give y.astype(int) if they are whole numbers"
    if labels.shape == (*shape, 1):
        return "give y[..., 0]"
    if is_one_hot(labels):
        return "of one row for each, one-hot, give y.argmax(axis=-1)"
    if labels.dtype.kind == "f":
        return (
            "give the number of its class for each, or if they are values, measure "
            "mean_squared_error (metrics)"
        )
    return "give the number of its class for each"


def is_one_hot(labels: np.ndarray) -> bool:
    """Returns whether labels are rows with one 1, of two or more numbers, and zeros."""
    if labels.ndim < 2 or labels.shape[-1] < 2 or labels.dtype.kind not in "biuf":
        return False
    ones = (labels == 1).sum(axis=-1)
    return bool(np.all(ones == 1) and np.count_nonzero(labels) == ones.sum())
