"""Soft labels: how far the outputs of a network are from those of its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matar_tf.errors import ModelError
from matar_tf.keras._compat import KerasModel, Tensor, keras, tf
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import activation_name

__all__ = [
    "Head",
    "by_output",
    "check_logits",
    "check_same_outputs",
    "check_soft_labels",
    "ends_in_probabilities",
    "heads_of",
]


def check_soft_labels(distillation: float, temperature: float) -> None:
    """Refuses a share or a temperature of soft labels that is out of its range.

    Raises:
      ModelError: If one is.
    """
    if not 0.0 <= distillation <= 1.0 or not temperature > 0.0:
        raise ModelError(
            "Expected a share of soft labels in 0..1 and a temperature above 0, "
            f"got {distillation} and {temperature}."
        )


def ends_in_probabilities(output: Tensor) -> bool:
    """Whether an output of a model is that of a softmax or sigmoid."""
    return activation_name(wrapper.output_maker(output)) in (
        "softmax",
        "sigmoid",
        "hard_sigmoid",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What soft labels of one output are.

    Attributes:
      is_classes: Whether they are of classes, else of values.
      weight: That of the output's loss.
    """

    is_classes: bool
    weight: float = 1.0

    def missed(
        self, teacher: Tensor, outputs: Tensor, weights: Tensor, temperature: float
    ) -> Tensor:
        """Returns how far outputs are from the teacher's, a mean over samples.

        ``KL(teacher || outputs)`` of classes, both softened by the temperature;
        ``mean((teacher - outputs)**2)`` of values.

        Args:
          teacher: Its outputs, ``[batch, ..., n]``.
          outputs: Those of the same shape.
          weights: Of the samples, or None.
          temperature: Above 0.
        """
        if self.is_classes:
            scale = 1.0 / temperature
            missed = keras.losses.kl_divergence(
                tf.nn.softmax(teacher * scale), tf.nn.softmax(outputs * scale)
            )
        else:
            missed = tf.reduce_mean(tf.math.squared_difference(teacher, outputs), -1)
        if weights is not None:
            weights = tf.cast(weights, missed.dtype)
            missed *= tf.reshape(weights, (-1, *[1] * (len(missed.shape) - 1)))
        return tf.reduce_mean(missed)


def heads_of(names: Sequence[str], loss: Any, loss_weights: Any) -> list[Head]:
    """Returns what soft labels of each output are, as the losses say.

    Args:
      names: Of the outputs.
      loss: As Keras takes it.
      loss_weights: Likewise.
    """
    losses = by_output(loss, names)
    weights = by_output(loss_weights, names)
    return [
        Head(
            is_classes="categoricalcrossentropy" in _name_of(one),
            weight=1.0 if weight is None else float(weight),
        )
        for one, weight in zip(losses, weights, strict=True)
    ]


def by_output(given: Any, names: Sequence[str]) -> list[Any]:
    """Returns for each output what Keras takes by name, in order, or as one for all."""
    if isinstance(given, Mapping):
        return [given.get(name) for name in names]
    if isinstance(given, (list, tuple)):
        return list(given)
    return [given for _ in names]


def _name_of(loss: Any) -> str:
    """Returns the name of a loss in small letters, without underscores."""
    own = getattr(loss, "fn", loss)
    name = (
        loss if isinstance(loss, str) else getattr(own, "__name__", type(loss).__name__)
    )
    return name.lower().replace("_", "")


def check_same_outputs(teacher: KerasModel, model: KerasModel) -> None:
    """Checks that teacher and model have the same outputs; of one, that of logits."""
    shapes = [[tuple(one.shape) for one in net.outputs] for net in (teacher, model)]
    if shapes[0] != shapes[1]:
        raise ModelError(
            "Expected the same outputs from teacher and model, for soft labels, got "
            f"the shapes {shapes[0]} from {teacher.name!r} and {shapes[1]} from "
            f"{model.name!r}; train without them (distillation=0)."
        )
    if len(model.outputs) == 1:  # the losses of several say which are of classes
        check_logits([*teacher.outputs, *model.outputs])


def check_logits(outputs: Sequence[Tensor]) -> None:
    """Checks that outputs of teacher and model are two or more logits."""
    for output in outputs:
        last, shape = wrapper.output_maker(output), tuple(output.shape)
        if ends_in_probabilities(output) or shape[-1] < 2:
            raise ModelError(
                "Expected an output of two or more logits from teacher and model, for "
                f"soft labels, got one of shape {shape} and activation "
                f"{activation_name(last)!r} from {last.name!r}; train without them "
                "(distillation=0)."
            )
