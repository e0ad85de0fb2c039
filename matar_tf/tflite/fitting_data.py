"""Whether samples and labels fit a network, and what is odd about them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from matar_tf.data import Data
from matar_tf.data_arrays import check_classes, is_one_hot
from matar_tf.errors import DataError, MatarWarning, OddDataError
from matar_tf.inputs import InputInfo
from matar_tf.named_arrays import by_name, each, items, num_rows
from matar_tf.packaged import Artifact
from matar_tf.tflite._schema import parse_model
from matar_tf.tflite.ends import inputs_of, integer_inputs, outputs_of
from matar_tf.tflite.heads import default_metrics, names_by_head
from matar_tf.tflite.input_range import InputGrid, grids_of_artifact, range_note
from matar_tf.tflite.metrics import (
    AGREEMENT,
    METRIC_NAMES,
    figure_names,
    takes_classes,
    takes_values,
)
from matar_tf.tflite.usual_scales import scale_note

__all__ = [
    "check_answers",
    "check_data",
    "check_heads",
    "check_labels",
    "check_samples",
    "data_notes",
    "for_inputs",
    "input_infos",
    "labels_of",
    "measured",
    "metrics_for",
    "warn_of",
]

_MANY_LABELS = 32
_BYTES = 255  # what unsigned bytes are divided by
_NOTHING: Final[Mapping[str, InputInfo]] = MappingProxyType({})


def check_data(
    artifact: Artifact,
    *parts: Data,
    metrics: Iterable[str] | None = None,
    allow_odd_data: bool = False,
) -> None:
    """Checks that samples fit the network, and labels its outputs and the metrics.

    What is odd about them, in the first of the parts where something is, is a
    `MatarWarning`, or if they can hardly be meant so, an error.

    Args:
      artifact: The packaged network.
      parts: Samples and labels.
      metrics: Names of what is to be measured; None for `default_metrics`.
      allow_odd_data: Whether that is no error, but a warning.

    Raises:
      DataError: If they do not.
    """
    model, grids = parse_model(artifact.template), grids_of_artifact(artifact)
    inputs = {one.name: one.shape for one in inputs_of(model)}
    outputs = {one.name: one.shape for one in outputs_of(model)}
    for data in parts:
        check_samples(data, inputs)
        check_heads(data, outputs, metrics)
    for notes in [
        data_notes(data, grids, artifact.inputs, allow_odd_data=allow_odd_data)
        for data in parts
    ]:
        if notes:
            warn_of(notes)
            return


def for_inputs(data: Data, model: Any) -> Data:
    """Returns data whose samples for inputs of integers are integers.

    Unsigned bytes are there what they were, and were not divided by 255.

    Args:
      data: Samples and labels; if they do not fit, that is for `check_data` to say.
      model: A file, or what `parse_model` made of it.

    Raises:
      DataError: If floats that are not whole are given for such an input.
    """
    wanted = integer_inputs(model)
    if not wanted:
        return data
    changes: dict[str, Any] = {"scaled": frozenset()}
    is_only = len(inputs_of(model)) == 1
    for key in ("x_test", "x_train"):
        given = getattr(data, key)
        if given is None:
            continue
        named = {
            name: _whole(data, f"{key}/{name}" if name else key, one)
            if is_only or name in wanted
            else one
            for name, one in items(given)
        }
        changes[key] = named if isinstance(given, Mapping) else named[""]
    return replace(data, **changes)


def _whole(data: Data, key: str, values: np.ndarray) -> np.ndarray:
    """Returns samples as integers, bytes as they were before they were divided."""
    if values.dtype.kind == "i":
        return values
    whole = np.rint(values * np.float32(_BYTES)) if key in data.scaled else values
    if not bool((whole == np.rint(whole)).all()):
        raise DataError(
            f"Expected whole numbers in {key} of {data.name!r}, for an input that "
            "takes integers, got fractions; give x.astype('int32')."
        )
    return whole.astype(np.int32)


def check_answers(data: Data, metrics: Iterable[str]) -> None:
    """Checks that agreement is measured of samples without labels, and nothing else.

    Raises:
      DataError: If it is not.
    """
    names = list(metrics)
    if data.is_labelled and AGREEMENT in names:
        raise DataError(
            f"Expected samples without labels to measure {AGREEMENT!r} on, got some in "
            f"{data.name!r}; leave y_test out, or measure accuracy."
        )
    others = [name for name in names if name != AGREEMENT]
    if not data.is_labelled and others:
        raise DataError(
            f"Expected labels in {data.name!r} to measure {', '.join(others)}, got "
            f"samples alone; give y_test, too, or measure {AGREEMENT!r}, the share of "
            "samples on which a policy answers as the widest one does."
        )


def labels_of(data: Data, outputs: Iterable[str]) -> dict[str, np.ndarray]:
    """Returns labels by the names of a network's outputs, of which some may have none.

    Raises:
      DataError: If there are several and labels have no names, or others.
    """
    return by_name(data.y_test, list(outputs), "labels for each output", partly=True)


def measured(data: Data, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Returns what is measured if nobody says; see `default_metrics`.

    Args:
      data: Its labels count.
      shapes: Shape of each output for one sample, by name.
    """
    return default_metrics(labels_of(data, shapes), shapes)


def metrics_for(artifact: Artifact, data: Data) -> list[str]:
    """Returns what is measured of a packaged network; see `default_metrics`.

    Of samples without labels how often policies answer as the widest one does.
    """
    if not data.is_labelled:
        return [AGREEMENT]
    outputs = outputs_of(artifact.template)
    return measured(data, {one.name: one.shape for one in outputs})


def data_notes(
    data: Data,
    grids: Mapping[str, InputGrid | None],
    inputs: Mapping[str, InputInfo] = _NOTHING,
    *,
    allow_odd_data: bool = False,
) -> list[str]:
    """Returns what is odd about samples and labels, a sentence each.

    Args:
      data: Samples and labels that fit a network.
      grids: Of its inputs, by name.
      inputs: What is known of its developer's samples.
      allow_odd_data: Whether a sentence is enough for samples that are refused else.

    Raises:
      OddDataError: If they can hardly be meant so.
    """
    samples = by_name(data.x_test, list(grids), "samples for each input")
    notes: list[str | None] = []
    for name, grid in grids.items():
        part = _part(data, name, x_test=samples[name])
        try:
            notes.append(range_note(part, grid) or scale_note(part, inputs.get(name)))
        except OddDataError as error:
            if not allow_odd_data:
                raise
            notes.append(str(error))
    notes += [
        _label_note(_part(data, name, y_test=one)) for name, one in items(data.y_test)
    ]
    return [one for one in notes if one is not None]


def input_infos(template: bytes, samples: Any) -> dict[str, InputInfo]:
    """Returns what samples of a network's inputs are, by name.

    Args:
      template: Its template.
      samples: As those of `Data`, prepared as the network takes them.

    Raises:
      DataError: If they do not fit the inputs.
    """
    shapes = {one.name: one.shape for one in inputs_of(template)}
    samples = each(np.asarray, samples)
    data = Data(name="samples", x_test=samples, y_test=np.zeros(num_rows(samples)))
    data = for_inputs(data, template)
    check_samples(data, shapes)
    given = by_name(data.x_test, list(shapes), "samples for each input")
    return {name: InputInfo.of(one) for name, one in given.items()}


def _part(data: Data, name: str, **changes: np.ndarray) -> Data:
    """Returns data with the array of one input or output in the place of all."""
    is_named = any(isinstance(getattr(data, key), Mapping) for key in changes)
    title = f"{data.name}, {name}" if is_named else data.name
    return replace(data, name=title, x_train=None, y_train=None, **changes)


def _label_note(data: Data) -> str | None:
    """Returns that all labels are equal, if so many are hardly so by chance."""
    labels: Any = data.y_test
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


def check_samples(data: Data, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that samples have the shapes of a network's inputs.

    Args:
      data: Samples of each.
      shapes: Shape of each input for one sample, by name.

    Raises:
      DataError: If they have not.
    """
    samples = by_name(data.x_test, list(shapes), "samples for each input")
    for name, shape in shapes.items():
        found = samples[name].shape
        if found[1:] != shape:
            where = "this network" if len(shapes) == 1 else f"the input {name!r}"
            raise DataError(
                f"Expected samples of shape {('n', *shape)} for {where}, got "
                f"{found} in {data.name!r}; {_shape_hint(found[1:], shape)}."
            )


def _shape_hint(found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Returns what to do with samples of another shape than a network's input."""
    if len(found) == 3 and (*found[1:], found[0]) == expected:
        return "give x.transpose(0, 2, 3, 1), with the axis of channels last"
    if (*found, 1) == expected:
        return "give x[..., None], with an axis of channels"
    if math.prod(found) == math.prod(expected):
        return f"give x.reshape({(-1, *expected)}) if their values are in that order"
    return "prepare them as at training"


def check_heads(
    data: Data,
    shapes: Mapping[str, tuple[int, ...]],
    metrics: Iterable[str] | None = None,
) -> None:
    """Checks that metrics can compare the outputs of a network with the labels.

    Args:
      data: What the network is to be evaluated on.
      shapes: Shape of each output for one sample, by name.
      metrics: Names of what is to be measured; None for `default_metrics`.

    Raises:
      DataError: If they cannot.
    """
    names = measured(data, shapes) if metrics is None else list(metrics)
    labels = labels_of(data, shapes)
    of_heads = {name: figure_names(names) for name in labels}
    if len(shapes) > 1:
        of_heads = names_by_head(names, labels, shapes)
    for name, one in labels.items():
        check_labels(_part(data, name, y_test=one), shapes[name], of_heads[name])


def check_labels(
    data: Data,
    output_shape: tuple[int, ...],
    metrics: Iterable[str] = METRIC_NAMES,
) -> None:
    """Checks that metrics can compare one output of a network with its labels.

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
    labels: Any = data.y_test
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
                remedy = ", or give y[..., 0]" if output_shape[-1] == 1 else ""
                if is_one_hot(labels):
                    remedy = ", or give y.argmax(axis=-1)"
                raise DataError(
                    f"Expected labels of shape {shape}, the class of each place, to "
                    f"measure {of_classes[0]}, got {labels.shape}, that of the "
                    f"outputs; measure mean_squared_error if they are values{remedy}."
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
