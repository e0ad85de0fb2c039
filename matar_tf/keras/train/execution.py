"""What Keras runs between two calls of callbacks: one step of training, or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from matar_tf.errors import DataError
from matar_tf.keras._compat import KerasModel, Tensor, keras, tf
from matar_tf.keras.layers import NOT_FINITE

__all__ = ["Execution", "steps_to_run"]


def steps_to_run(model: KerasModel) -> int:
    """Returns the number of steps in the next execution of a model; 1 uncompiled."""
    steps = model.steps_per_execution
    # Under tf.distribute, Keras keeps one variable for each replica.
    return 1 if steps is None else int(keras.backend.get_value(steps))


class Execution:
    """A ``train_function`` of Keras with a policy for every step.

    Keras calls callbacks between executions, so that they cannot put a policy in force
    between the steps of one. This runs Keras' function of a single step in a loop of
    the graph, and assigns what was drawn for each. An error of a batch that is not
    finite is one of ours.

    Args:
      model: The compiled model.
      assign: Puts what was drawn for one step in force, also in a graph.
    """

    def __init__(
        self, model: KerasModel, assign: Callable[[Sequence[Tensor]], None]
    ) -> None:
        self._model = model
        self._assign = assign
        self._train = model.train_function
        self._rows: np.ndarray | None = None
        self._several: Any = None

    def draw(self, rows: Sequence[Sequence[np.ndarray]]) -> None:
        """Has the next execution take as many steps, each under policies of its own.

        Args:
          rows: What was drawn for each step, ``[num_steps, num_draws, num_slots]``.
        """
        if len(rows) == 1 and self._several is None:
            self._assign(rows[0])
            return
        self._rows = np.array(rows)
        if self._several is None:
            self._several = self._loop()

    def __call__(self, iterator: Any) -> Any:
        """Takes the steps, on the next batches of an iterator; called by Keras.

        Raises:
          DataError: If a batch is not finite.
        """
        rows, self._rows = self._rows, None
        try:
            if rows is None:
                return self._train(iterator)
            return self._several(iterator, rows)
        except tf.errors.InvalidArgumentError as error:
            if NOT_FINITE in str(error):
                raise DataError(NOT_FINITE) from None
            raise

    def _loop(self) -> Any:
        assign, step = self._assign, self._single_step()

        def train(iterator: Any, rows: Tensor) -> Any:
            assign(rows[0])
            logs = step(iterator)
            for drawn in rows[1:]:
                assign(drawn)
                logs = step(iterator)
            return logs

        if self._model.run_eagerly:
            return train
        return tf.function(train, reduce_retracing=True)

    def _single_step(self) -> Any:
        """Returns the function that Keras would make for one step per execution."""
        model = self._model
        before = steps_to_run(model)
        model.steps_per_execution = 1
        step = model.make_train_function(force=True)
        model.steps_per_execution = before
        model.train_function = self
        return step
