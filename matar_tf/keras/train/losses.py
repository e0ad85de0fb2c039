"""What a network is trained for, as its labels say."""

from __future__ import annotations

from typing import Any

import numpy as np

from matar_tf.errors import ModelError
from matar_tf.keras._compat import KerasModel, Tensor, keras
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.train.soft_labels import ends_in_probabilities
from matar_tf.named_arrays import Arrays, by_name

__all__ = ["accuracy_metric", "losses_for", "metrics_for"]


def accuracy_metric() -> Any:
    """Returns the accuracy of integer labels."""
    # By name, Keras would guess one for one-hot labels once the model was saved.
    return keras.metrics.SparseCategoricalAccuracy(name="accuracy")


def losses_for(model: KerasModel, labels: Arrays) -> Any:
    """Returns what a model is trained for: cross-entropy on logits of classes.

    Of several outputs a mapping by their names, with the mean squared error of those
    whose labels are values.

    Args:
      model: The model, or a trainer in its place.
      labels: As `Data` has them.

    Raises:
      DataError: If an output has no labels.
      ModelError: If one that has classes as labels gives probabilities.
    """
    heads = _heads(model, labels)
    if heads is None:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for name, output in heads.items():
        if _are_classes(labels[name], output) and ends_in_probabilities(output):
            raise ModelError(
                f"Expected logits from the output {name!r}, whose labels are classes, "
                "got what a softmax or sigmoid makes; leave that out."
            )
    return {
        name: keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if _are_classes(labels[name], output)
        else keras.losses.MeanSquaredError()
        for name, output in heads.items()
    }


def metrics_for(model: KerasModel, labels: Arrays) -> Any:
    """Returns what is measured beside the loss: accuracy, or mean absolute error."""
    heads = _heads(model, labels)
    if heads is None:
        return [accuracy_metric()]
    return {
        name: accuracy_metric()
        if _are_classes(labels[name], output)
        else keras.metrics.MeanAbsoluteError()
        for name, output in heads.items()
    }


def _heads(model: KerasModel, labels: Any) -> dict[str, Tensor] | None:
    """Returns several outputs by name; None for one alone."""
    network = wrapper.multi_bit_network(model)
    names = wrapper.output_names(network)
    if len(names) == 1:
        return None
    by_name(labels, names, "labels for each output")
    return dict(zip(names, network.outputs, strict=True))


def _are_classes(labels: np.ndarray, output: Tensor) -> bool:
    """Whether labels are the class of each place of an output, not values."""
    return labels.dtype.kind == "i" and labels.ndim == len(output.shape) - 1
