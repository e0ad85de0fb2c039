"""Samples without labels: theirs are what the network answers at its widest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from matar_tf.data import Data, read_arrays
from matar_tf.errors import DataError
from matar_tf.named_arrays import alone, by_ends, by_name, num_rows
from matar_tf.packaged import Artifact
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import outputs_of
from matar_tf.tflite.fitting_data import check_samples, for_inputs
from matar_tf.tflite.runtime import Runner

__all__ = ["answered", "samples_alone"]

_SAMPLES: Final = "x_test"
_LABELS: Final = "y_test"


def samples_alone(value: Any) -> tuple[str, Any] | None:
    """Returns the name of a data set, and its samples, if it has no labels.

    Args:
      value: What `as_data` takes, or an array of samples, or a mapping or ``.npz`` file
        with ``x_test`` alone, or a pair whose second is None.

    Returns:
      Both; None if there are labels, or it is none of these.

    Raises:
      DataError: If a file cannot be read.
    """
    if isinstance(value, np.ndarray):
        return "arrays", value
    if isinstance(value, (str, Path)) and str(value).endswith(".npz"):
        found = by_ends(str(value), read_arrays(value, (_SAMPLES, _LABELS)))
        has_samples = set(found) == {_SAMPLES}
        return (str(value), found[_SAMPLES]) if has_samples else None
    if isinstance(value, Mapping):
        given = cast("Mapping[str, Any]", value)
        if all(isinstance(key, str) for key in given):
            given = by_ends("arrays", given)
        if _SAMPLES in given and given.get(_LABELS) is None:
            return "arrays", given[_SAMPLES]
    if isinstance(value, tuple):
        pair = cast("tuple[Any, ...]", value)
        if len(pair) == 2 and pair[1] is None:
            return "arrays", pair[0]
    return None


def answered(artifact: Artifact, name: str, samples: Any) -> Data:
    """Returns samples with the classes that the widest policy tells as labels.

    What a policy agrees with then needs no labels of anybody.

    Args:
      artifact: The packaged network.
      name: Of the samples, in tables and errors.
      samples: As those of `Data`.

    Raises:
      DataError: If they do not fit the network, or it tells no classes apart.
    """
    shapes = {one.name: one.shape for one in outputs_of(artifact.template)}
    if any(len(shape) != 1 for shape in shapes.values()):
        raise DataError(
            f"Expected labels beside the samples of {name!r}: outputs of shapes "
            f"{[*shapes.values()]} are no classes of a sample; give y_test, too."
        )
    try:
        nothing = np.zeros(num_rows(samples), np.int64)
    except (AttributeError, TypeError, IndexError) as error:
        raise DataError(
            f"Expected an array of samples in {name!r}, got {type(samples).__name__}; "
            "give x_test, and y_test if there are labels."
        ) from error
    labels = dict.fromkeys(shapes, nothing) if len(shapes) > 1 else nothing
    data = Data(name=name, x_test=samples, y_test=labels, is_labelled=False)
    data = for_inputs(data, artifact.template)
    runner = Runner(ModelBuilder(artifact).build(artifact.space.widest()))
    check_samples(data, runner.input_shapes)
    found = by_name(runner.predict(data.x_test), [*shapes], "outputs")
    answers = {
        one.name: _classes(found[one.name], one.gives_probabilities)
        for one in outputs_of(artifact.template)
    }
    labels = answers if len(answers) > 1 else alone(answers)
    return Data(
        name=name,
        x_test=data.x_test,
        y_test=labels,
        scaled=data.scaled,
        is_labelled=False,
    )


def _classes(outputs: np.ndarray, are_probabilities: bool) -> np.ndarray:
    if outputs.shape[-1] == 1:  # for two classes
        return (outputs[..., 0] > 0.5 * are_probabilities).astype(np.int64)
    return outputs.argmax(axis=-1).astype(np.int64)
