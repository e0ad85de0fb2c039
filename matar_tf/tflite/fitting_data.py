"""Whether samples and labels fit a network, and what is odd about them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import numpy as np

from matar_tf.data import Data
from matar_tf.data_arrays import check_classes
from matar_tf.errors import DataError, MatarWarning
from matar_tf.packaged import Artifact
from matar_tf.tflite.input_range import InputGrid, grid_of_artifact, range_note
from matar_tf.tflite.metrics import (
    METRIC_NAMES,
    figure_names,
    takes_classes,
    takes_values,
)

__all__ = ["check_data", "check_labels", "check_samples", "data_notes", "warn_of"]

_MANY_LABELS = 32


def check_data(
    artifact: Artifact, *parts: Data, metrics: Iterable[str] = METRIC_NAMES
) -> None:
    """Checks that samples fit the network, and labels its outputs and the metrics.

    What is odd about them, in the first of the parts where something is, is a
    `MatarWarning`.

    Args:
      artifact: The packaged network.
      parts: Samples and labels.
      metrics: Names of what is to be measured.

    Raises:
      DataError: If they do not.
    """
    tensors, grid = artifact.workload.tensors, grid_of_artifact(artifact)
    for data in parts:
        check_samples(data, tensors[artifact.workload.inputs[0]].shape)
        shape = tensors[artifact.workload.outputs[0]].shape
        check_labels(data, shape, figure_names(metrics))
    for notes in [data_notes(data, grid) for data in parts]:
        if notes:
            warn_of(notes)
            return


def data_notes(data: Data, grid: InputGrid | None) -> list[str]:
    """Returns what is odd about samples and labels, a sentence each."""
    notes = [range_note(data, grid), _label_note(data)]
    return [one for one in notes if one is not None]


def _label_note(data: Data) -> str | None:
    """Returns that all labels are equal, if so many are hardly so by chance."""
    labels = data.y_test
    if labels.dtype.kind != "i" or labels.ndim > 1:
        return None
    if len(labels) < _MANY_LABELS or int(labels.min()) != int(labels.max()):
        return None
    return (
        f"All {len(labels)} labels of {data.name!r} are {labels[0]}; figures will be "
        "of this class alone."
    )


def warn_of(notes: Iterable[str]) -> None:
    """Says each note as a `MatarWarning`."""
    for note in notes:
        # At one place: Python shows equal ones once.
        warnings.warn(note, MatarWarning, stacklevel=1)


def check_samples(data: Data, input_shape: tuple[int, ...]) -> None:
    """Checks that samples have the shape of a network's input.

    Raises:
      DataError: If they have not.
    """
    if data.x_test.shape[1:] != input_shape:
        raise DataError(
            f"Expected samples of shape {('n', *input_shape)} for this network, got "
            f"{data.x_test.shape} in {data.name!r}; "
            f"{_shape_hint(data.x_test.shape[1:], input_shape)}."
        )


def _shape_hint(found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Returns what to do with samples of another shape than a network's input."""
    if (*found, 1) == expected:
        return "give x[..., None], with an axis of channels"
    if math.prod(found) == math.prod(expected):
        return f"give x.reshape({(-1, *expected)}) if their values are in that order"
    return "prepare them as at training"


def check_labels(
    data: Data,
    output_shape: tuple[int, ...],
    metrics: Iterable[str] = METRIC_NAMES,
) -> None:
    """Checks that metrics can compare outputs of the network with the labels.

    Args:
      data: What the network is to be evaluated on.
      output_shape: Shape of the outputs of one sample.
      metrics: Names of figures; those of the user's own take what there is.

    Raises:
      DataError: If they cannot.
    """
    names = list(metrics)
    of_classes = [name for name in names if takes_classes(name)]
    of_values = [name for name in names if takes_values(name)]
    labels = data.y_test
    if of_classes:
        if not output_shape:
            raise DataError(
                f"Expected outputs for each class, to measure {of_classes[0]} of, got "
                "one number a sample without an axis; reshape it to (n, 1)."
            )
        shape = (len(labels), *output_shape[:-1])
        # One output tells two classes apart.
        num_classes = max(output_shape[-1], 2)
        try:
            check_classes(data.name, "test", labels, shape, num_classes)
        except DataError as error:
            if labels.shape == (len(labels), *output_shape) and len(output_shape) > 1:
                raise DataError(
                    f"Expected labels of shape {shape}, the class of each place, to "
                    f"measure {of_classes[0]}, got {labels.shape}, that of the "
                    "outputs; measure mean_squared_error if they are values, or give "
                    "y.argmax(axis=-1)."
                ) from error
            raise
    expected = (len(labels), *output_shape)
    is_column = output_shape == (1,) and labels.shape == expected[:1]
    if of_values and labels.shape != expected and not is_column:
        raise DataError(
            f"Expected labels of the shape of the outputs, {expected}, to measure "
            f"{of_values[0]}, got {labels.shape} in {data.name!r}; give the values "
            f"that they are to be{', or measure accuracy' if labels.ndim == 1 else ''}."
        )
    if "binary_accuracy" in of_values and set(np.unique(labels)) - {0, 1}:
        raise DataError(
            f"Expected labels 0 and 1 to measure binary_accuracy, got "
            f"{labels.min()}..{labels.max()} in {data.name!r}; give whether each "
            "output is to be."
        )
