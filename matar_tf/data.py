"""Samples and labels: arrays that fit together, and where they come from.

`as_data` takes them as a user has them: ``(x, y)``, a mapping of arrays, `Data`, or the
name of what `load_data` reads: ``digits`` (scikit-learn's scans of handwritten digits,
inside the package), the path of an ``.npz`` file, or ``package.module:function``, a
function of the user's own.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from matar_tf.data_arrays import (
    check_classes,
    checked_labels,
    checked_samples,
    each_named,
    keys_of_bytes,
)
from matar_tf.errors import ArtifactError, DataError, MatarWarning
from matar_tf.io.archive import array_names, parse_arrays
from matar_tf.named_arrays import by_ends, items, num_rows, rows

__all__ = [
    "DIGITS",
    "Data",
    "DataLike",
    "as_data",
    "import_function",
    "load_data",
    "read_arrays",
]

DIGITS: Final = "digits"
_REQUIRED = ("x_test", "y_test")
_KEYS = ("x_train", "y_train", *_REQUIRED)
_REMEDY = "write it with numpy.savez, of plain arrays, labels as integers"
_MOST_NAMES = 10  # of arrays, in an error
_NUM_TEST_DIGITS = 500
_INFINITE = -1  # tf.data.INFINITE_CARDINALITY
DataLike: TypeAlias = "Data | str | Path | tuple[Any, Any] | Mapping[str, Any]"


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """Arrays of one data set, checked when it is made.

    Unsigned bytes are divided by 255, of which a `MatarWarning` tells, but for those
    of files; an input of integers gets them as they were. Floats are taken as they are;
    integer labels may have a second axis of length 1, which is dropped. What labels are
    is for metrics to say: classes, numbered from 0, one for each sample or place of it,
    or values such as a reconstruction has.

    For a network of several inputs samples are a mapping of arrays by the names of its
    inputs, for one of several outputs labels are one by the names of its outputs. An
    ``.npz`` file has them under ``x_test/NAME`` and ``y_test/NAME``.

    Attributes:
      name: What it is called in tables and errors.
      x_test: Evaluation samples, ``[num_samples, ...]``: float32, or int32 for an input
        that is not quantized, such as numbers of words.
      y_test: Labels, ``[num_samples]`` or ``[num_samples, ...]``: int64, of booleans
        too, or float32.
      x_train: Training samples, or None.
      y_train: Training labels, or None.
      scaled: Keys of samples that were unsigned bytes: ``x_test``, ``x_test/NAME``.
      is_labelled: Whether labels are known; else they are what a network answers.

    Raises:
      DataError: If arrays are not of these kinds, not finite, or do not fit together.
    """

    name: str = "arrays"
    x_test: Any  # Arrays; most callers know whether there are several
    y_test: Any
    x_train: Any = None
    y_train: Any = None
    scaled: frozenset[str] = frozenset()
    is_labelled: bool = True

    def __post_init__(self) -> None:
        if (self.x_train is None) != (self.y_train is None):
            raise DataError(
                f"Expected both x_train and y_train in {self.name!r}, or neither, got "
                f"only {'y_train' if self.x_train is None else 'x_train'}."
            )
        of_bytes: set[str] = set()
        for part in ("test", "train"):
            given = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if part == "train" and self.x_train is None:
                continue
            of_bytes |= keys_of_bytes(self.name, f"x_{part}", given[0])
            samples = each_named(checked_samples, self.name, f"x_{part}", given[0])
            number = num_rows(samples)
            for key, one in items(samples):
                if len(one) != number:
                    raise DataError(
                        f"Expected as many samples in each array of x_{part} of "
                        f"{self.name!r}, got {len(one)} in {key!r} and {number} in "
                        "another; give one for each."
                    )
            labels = each_named(
                functools.partial(checked_labels, num_samples=number),
                *(self.name, f"y_{part}", given[1]),
            )
            object.__setattr__(self, f"x_{part}", samples)
            object.__setattr__(self, f"y_{part}", labels)
        object.__setattr__(self, "scaled", self.scaled | of_bytes)
        if of_bytes:
            warnings.warn(
                f"The unsigned bytes of {self.name!r} are divided by 255, to the range "
                "0..1, but where an input takes integers; give floats if the network "
                "was trained on samples of another range.",
                MatarWarning,
                stacklevel=3,
            )
        if self.x_train is not None:
            shapes = [
                {key: one.shape[1:] for key, one in items(samples)}
                for samples in (self.x_train, self.x_test)
            ]
            if shapes[0] != shapes[1]:
                first, second = (list(one.values()) for one in shapes)
                raise DataError(
                    "Expected samples of one shape in x_train and x_test of "
                    f"{self.name!r}, got {first[0] if len(first) == 1 else shapes[0]} "
                    f"and {second[0] if len(second) == 1 else shapes[1]}."
                )

    @property
    def num_samples(self) -> int:
        """Number of evaluation samples."""
        return num_rows(self.x_test)

    def digest(self) -> str:
        """Returns the SHA-256 of the evaluation samples and labels."""
        total = hashlib.sha256()
        for arrays in (self.x_test, self.y_test):
            for name, array in sorted(items(arrays), key=lambda one: one[0]):
                # The length keeps names apart from what follows them.
                named = f"{len(name)} {name} " if name else ""
                total.update(f"{named}{array.dtype}{array.shape}".encode())
                total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()

    def training(self) -> tuple[Any, Any]:
        """Returns training samples and labels; of one output the class of each sample.

        Raises:
          DataError: If there are none, or those of one output are no classes.
        """
        if self.x_train is None or self.y_train is None:
            raise DataError(
                f"Expected training data in {self.name!r}, but it holds only x_test "
                "and y_test; add x_train and y_train."
            )
        if isinstance(self.y_train, np.ndarray):
            number = num_rows(self.x_train)
            check_classes(self.name, "train", self.y_train, (number,))
        return self.x_train, self.y_train

    def head(self, num_samples: int) -> Data:
        """Returns the same data with only the first evaluation samples.

        Raises:
          DataError: If there are not so many.
        """
        if not 0 < num_samples <= self.num_samples:
            raise DataError(
                f"Expected 1 to {self.num_samples} evaluation samples of "
                f"{self.name!r}, got {num_samples}."
            )
        return self.part(slice(num_samples))

    def part(self, index: slice | Sequence[int]) -> Data:
        """Returns the same data with only some evaluation samples."""
        return replace(
            self, x_test=rows(self.x_test, index), y_test=rows(self.y_test, index)
        )


def as_data(value: DataLike, *, training: bool = False) -> Data:
    """Returns samples and labels in whichever of the usual forms they come.

    Args:
      value: `Data`; ``(x, y)``; a mapping with the keys of an ``.npz`` file; or what
        `load_data` takes.
      training: Whether the training samples of a file are read, too.

    Raises:
      DataError: If it is none of these, or see `Data`.
    """
    if isinstance(value, Data):
        return value
    if isinstance(value, (str, Path)):
        return load_data(str(value), training=training)
    if isinstance(value, tuple) and len(value) == 2:
        return Data(x_test=value[0], y_test=value[1])
    if isinstance(value, Mapping) or hasattr(value, "as_numpy_iterator"):
        return _from_arrays("arrays", value)
    shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
    remedy = "add the labels" if shape else "give it in one of these forms"
    if isinstance(value, (list, tuple)):
        shape, remedy = f" of {len(value)}", "give a tuple of the two alone"
    raise DataError(
        "Expected samples and labels as (x, y), a mapping of arrays, the path of an "
        f".npz file or matar_tf.Data, got {type(value).__name__}{shape}; {remedy}."
    )


def load_data(spec: str, *, training: bool = True) -> Data:
    """Loads a data set.

    Args:
      spec: ``digits``, the path of an ``.npz`` file, or ``package.module:function``.
        The function returns a mapping with the keys of the file, or a
        ``tf.data.Dataset`` of ``(samples, labels)`` batches to evaluate on.
      training: Whether the training samples of a file are read, too.

    Raises:
      DataError: If nothing is there, or its arrays do not fit together.
    """
    if spec == DIGITS:
        return _load_digits()
    if spec.endswith(".npz"):
        return _load_file(spec, _KEYS if training else _KEYS[2:])
    if ":" in spec:
        try:
            return _from_arrays(spec, import_function(spec)())
        except SystemExit as error:
            raise DataError(
                f"Expected arrays from {spec!r}, but it ends the program; name a "
                "function that returns them."
            ) from error
        except ImportError as error:
            raise DataError(
                f"Expected arrays from {spec!r}, but a package that it needs cannot be "
                f"imported ({error}); install it, or save the arrays as an .npz file."
            ) from error
    raise DataError(
        f"Expected 'digits', the path of an .npz file, or 'package.module:function' "
        f"for the data, got {spec!r}."
    )


def _load_digits() -> Data:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = (bunch.images[..., np.newaxis] / 16.0).astype(np.float32)
    labels = bunch.target.astype(np.int64)
    # Neighbours in the file are by the same writer; a fixed shuffle mixes them.
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[:_NUM_TEST_DIGITS], order[_NUM_TEST_DIGITS:]
    return Data(
        name=DIGITS,
        x_test=images[test],
        y_test=labels[test],
        x_train=images[train],
        y_train=labels[train],
    )


def _load_file(path: str, keys: Sequence[str]) -> Data:
    arrays = by_ends(path, read_arrays(path, keys, required=_REQUIRED))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MatarWarning)  # bytes are the form of files
        return _from_arrays(path, arrays)


def read_arrays(
    path: str | Path, keys: Sequence[str], *, required: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Reads arrays of an ``.npz`` file, those of `keys` that it has; no pickles.

    So are those of a name under a key: ``x_test/NAME``.

    Raises:
      DataError: If there is no such file of plain arrays, or one required is missing.
    """
    if not Path(path).is_file():
        raise DataError(
            f"Expected an .npz file at {path}, found nothing; check the path."
        )
    try:
        with Path(path).open("rb") as file:
            if file.read(6) == np.lib.format.MAGIC_PREFIX:
                raise ArtifactError(
                    f"Expected named arrays in {path}, got one bare array; {_REMEDY}."
                )
        found = array_names(Path(path), str(path), remedy=_REMEDY)
        wanted = [one for one in found if one.partition("/")[0] in keys]
        arrays = parse_arrays(
            Path(path), str(path), max_bytes=None, keys=wanted, remedy=_REMEDY
        )
    except ArtifactError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(
            f"Expected to read {path}, got: {error.strerror}; check its permissions."
        ) from error
    there = {one.partition("/")[0] for one in arrays}
    missing = [key for key in required if key not in there]
    if missing:
        names = ", ".join(map(repr, found[:_MOST_NAMES])) or "none"
        more = ", ..." if len(found) > _MOST_NAMES else ""
        raise DataError(
            f"Expected the arrays {' and '.join(required)} in {path}, got {names}"
            f"{more}; save them under these names."
        )
    return arrays


def import_function(spec: str) -> Callable[..., Any]:
    """Returns the function that ``package.module:function`` names.

    Raises:
      DataError: If there is none.
    """
    module_name, _, function_name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"Expected a function at {spec!r}, but: {error}; write "
            "package.module:function, importable from here; PYTHONPATH names the "
            "folders where Python looks."
        ) from error
    if not callable(function):
        raise DataError(
            f"Expected a function at {spec!r}, got {type(function).__name__}; name "
            "a function."
        )
    return function


def _from_arrays(name: str, value: Any) -> Data:
    if hasattr(value, "as_numpy_iterator"):
        value = _from_dataset(name, value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        value = by_ends(name, value)
    if not isinstance(value, Mapping) or not set(_REQUIRED) <= set(value):
        found = list(value) if isinstance(value, Mapping) else type(value).__name__
        raise DataError(
            f"Expected the arrays x_test and y_test (and x_train, y_train for "
            f"training) from {name!r}, got {found}; give them under these names."
        )
    return Data(name=name, **{key: value[key] for key in _KEYS if key in value})


def _from_dataset(name: str, dataset: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of a finite ``tf.data.Dataset`` of labelled batches."""
    if int(dataset.cardinality()) == _INFINITE:
        raise DataError(
            f"Expected a data set with an end from {name!r}, but it repeats for ever; "
            "return it without repeat()."
        )
    batches = list(dataset.as_numpy_iterator())
    if not batches:
        raise DataError(f"Expected batches from {name!r}, got an empty data set.")
    try:
        samples, labels = zip(*batches, strict=True)
        return {"x_test": _joined(samples), "y_test": _joined(labels)}
    except (KeyError, ValueError) as error:
        raise DataError(
            f"Expected batches of (samples, labels) from {name!r}, but: {error}; "
            "batch the data set, and let each element be a pair of arrays."
        ) from error


def _joined(batches: Sequence[Any]) -> Any:
    """Returns batches in one piece, of mappings each array."""
    if isinstance(batches[0], Mapping):
        return {
            name: np.concatenate([one[name] for one in batches]) for name in batches[0]
        }
    return np.concatenate(batches)
