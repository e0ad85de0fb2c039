"""Keras callbacks: a new policy for every batch, metrics for named policies."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from matar_tf.errors import DataError, ModelError
from matar_tf.keras._compat import KerasModel, keras, tf
from matar_tf.keras.checks import (
    input_grids,
    is_initialized,
    warn_of_first_batch,
    warn_of_new_grids,
)
from matar_tf.keras.policies import PolicySetter, policy_setter
from matar_tf.keras.train.execution import Execution, steps_to_run
from matar_tf.keras.train.trainer import MultiBitTrainer, assign_draws
from matar_tf.policy import Policy
from matar_tf.samplers import MixtureSampler, Sampler
from matar_tf.space import PolicySpace

__all__ = ["PolicyMetrics", "PolicyRandomizer"]


class PolicyRandomizer(keras.callbacks.Callback):
    """Puts a new policy in force before every training batch.

    The policy of a batch depends on the seed, the epoch and the batch alone, so a
    training that was killed and restored (``BackupAndRestore``) goes on as if it had
    not been. Evaluation, and the model after an epoch and after training, use one
    fixed policy; put this callback before those that save or keep weights, such as
    ModelCheckpoint and EarlyStopping: the policy in force is among the weights.

    The first batch of a model that has seen no samples yet sets the steps of its
    activations, so that it has the widest policy; `matar_tf.keras.calibrate` does so
    from more samples. Warns in one sentence if that batch does not fit the grid of the
    input, and after an epoch if training has set that grid anew.

    With ``steps_per_execution`` above 1 every batch has the policy that it has with 1;
    the policies of an execution are put in force within its graph. ``"auto"`` raises a
    `ModelError`: Keras then changes the number while an execution is being prepared.

    In a loop of one's own, call ``set_model``, ``on_train_begin``, ``on_epoch_begin``
    and ``on_train_batch_begin`` as Keras does, or let ``CallbackList`` do so.

    Args:
      sampler: Draws the policies; by default a `MixtureSampler`. For a curriculum,
        samplers by the epoch from which on they draw, the first from 0.
      seed: Of all draws, at least 0.
      evaluation_policy: Name of the uniform policy for evaluation, or a policy; None
        for the widest.

    Raises:
      ModelError: If no sampler draws from the first epoch on, a sampler cannot be
        called, or the seed is below 0.
    """

    def __init__(
        self,
        sampler: Sampler | Mapping[int, Sampler] | None = None,
        *,
        seed: int = 0,
        evaluation_policy: Policy | str | None = None,
    ) -> None:
        super().__init__()
        chosen = MixtureSampler() if sampler is None else sampler
        self._samplers = dict(chosen) if isinstance(chosen, Mapping) else {0: chosen}
        if 0 not in self._samplers or min(self._samplers) < 0:
            raise ModelError(
                "Expected samplers by the epoch from which on they draw, the first "
                f"from 0, got {sorted(self._samplers)}."
            )
        for one in self._samplers.values():
            if not callable(one):
                raise ModelError(
                    f"Expected a sampler such as UniformSampler(), got {one!r}; for "
                    "one policy alone, call set_policy and leave the callback out."
                )
        if seed < 0:
            raise ModelError(f"Expected a seed of at least 0, got {seed}.")
        self._seed = seed
        self._evaluation_policy = evaluation_policy
        self._epoch = 0
        self._has_begun = False
        self._calibrates = False
        self._states: list[int] | None = None
        self._history: list[tuple[int, int, np.ndarray]] = []
        self._setter: PolicySetter | None = None

    @property
    def history(self) -> list[tuple[int, int, Policy]]:
        """Epoch, batch and policy of every training batch of the model so far."""
        return [
            (epoch, batch, self._of_model().policy(rows))
            for epoch, batch, rows in self._history
        ]

    def sampler_of(self, epoch: int) -> Sampler:
        """Returns the sampler that draws in an epoch."""
        return self._samplers[max(one for one in self._samplers if one <= epoch)]

    def set_model(self, model: KerasModel) -> None:
        """Finds the quantizers of the model; called by Keras."""
        super().set_model(model)
        setter = policy_setter(model)
        if setter is not self._setter:
            self._history.clear()
        self._setter = setter

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks that every batch can have a policy of its own.

        Raises:
          ModelError: If Keras chooses how many batches it runs in one execution.
          PolicyError: If the evaluation policy does not fit the model.
        """
        model: KerasModel = self.model
        if model.autotune_steps_per_execution:
            raise ModelError(
                "Expected a number as steps_per_execution, so that every batch gets a "
                "policy of its own, got 'auto'; compile the model with a number."
            )
        # Keras keeps the function from one ``fit`` to the next.
        if model.train_function and not isinstance(model.train_function, Execution):
            assign = functools.partial(assign_draws, model)
            model.train_function = Execution(model, assign)
        self._has_begun = False
        if self._evaluation_policy is not None:
            self._of_model()(self._evaluation_policy)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remembers the epoch; looks at the model before the first.

        Raises:
          ModelError: If the optimizer would average steps with those of before any
            sample.
        """
        self._epoch = epoch
        if not self._has_begun:
            self._has_begun = True
            self._look_at_start()

    def _look_at_start(self) -> None:
        # Not in `on_train_begin`, where callbacks that restore may come later.
        model: KerasModel = self.model
        self._calibrates = not is_initialized(model)
        optimizer = getattr(model, "optimizer", None)  # none in a loop of one's own
        if self._calibrates and getattr(optimizer, "use_ema", False):
            raise ModelError(
                "Expected a calibrated model for an optimizer with use_ema, whose "
                "averages of steps begin with those of now, got one that has seen no "
                "samples; call matar_tf.calibrate first."
            )
        self._states = [int(one.initialized.numpy()) for one in input_grids(model)]

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Draws the policy of this batch, or `MultiBitTrainer.draws`; puts in force.

        So it does for all batches of the execution that begins with this one.
        """
        self._of_model()  # refuses before anything is asked of a model
        model: KerasModel = self.model
        drawn = [self._draw(batch + step) for step in range(steps_to_run(model))]
        if isinstance(model.train_function, Execution):
            model.train_function.draw(drawn)
        else:  # a loop of one's own
            assign_draws(model, drawn[0])

    def _draw(self, batch: int) -> list[np.ndarray]:
        setter = self._of_model()
        rng = np.random.default_rng((self._seed, self._epoch, batch))
        sampler = self.sampler_of(self._epoch)
        if self._calibrates:
            sampler = _widest
            self._calibrates = False
        trainer = self.model if isinstance(self.model, MultiBitTrainer) else None
        num_draws = trainer.draws if trainer else 1
        drawn = [setter.rows(sampler(setter.space, rng)) for _ in range(num_draws)]
        self._history += [(self._epoch, batch, rows.astype(np.int8)) for rows in drawn]
        return drawn

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Warns if the first batch does not fit the grid of the network's input."""
        if self._states is not None:
            warn_of_first_batch(self.model, self._states)
            self._states = None

    def on_test_begin(self, logs: Any = None) -> None:
        """Puts the evaluation policy in force for validation within ``fit``."""
        self._apply_evaluation_policy()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Puts the evaluation policy in force; tells of an input grid set anew."""
        warn_of_new_grids(self.model)
        self._apply_evaluation_policy()

    def on_train_end(self, logs: Any = None) -> None:
        """Leaves the model under the evaluation policy."""
        self._apply_evaluation_policy()
        if isinstance(self.model, MultiBitTrainer):
            self.model.forget_draws()

    def _apply_evaluation_policy(self) -> None:
        setter, policy = self._of_model(), self._evaluation_policy
        setter(setter.space.widest() if policy is None else policy)

    def _of_model(self) -> PolicySetter:
        if self._setter is None:
            raise ModelError(
                "The policy callback has no model yet; pass it to fit, or call "
                "set_model."
            )
        return self._setter


def _widest(space: PolicySpace, rng: np.random.Generator) -> Policy:
    del rng
    return space.widest()


class PolicyMetrics(keras.callbacks.Callback):
    """Evaluates named policies after an epoch and adds the metrics to ``logs``.

    The keys are ``val_accuracy/w4a4``: History sees them, and so do CSVLogger,
    TensorBoard, EarlyStopping and ModelCheckpoint if they stand after this callback in
    the list. After other epochs than those of `every` they are NaN: CSVLogger takes its
    columns from the first epoch. EarlyStopping's patience counts these epochs, too.

    Args:
      validation_data: ``(x, y)`` arrays, or a ``tf.data.Dataset``.
      policies: Names of uniform policies, or named policies.
      batch_size: For arrays.
      every: Evaluate after every so many epochs.

    Raises:
      DataError: If the validation data have another form.
      ModelError: If `every` is below 1.
    """

    def __init__(
        self,
        validation_data: Any,
        policies: Sequence[str] | Mapping[str, Policy] = ("w8a8", "w4a4", "w2a2"),
        *,
        batch_size: int = 128,
        every: int = 1,
    ) -> None:
        super().__init__()
        is_pair = isinstance(validation_data, tuple) and len(validation_data) == 2
        if not is_pair and not isinstance(validation_data, tf.data.Dataset):
            raise DataError(
                "Expected (x, y) or a tf.data.Dataset as validation data, got "
                f"{type(validation_data).__name__}."
            )
        if every < 1:
            raise ModelError(f"Expected every >= 1 epoch, got {every}.")
        self._data = validation_data
        self._policies = policies
        self._batch_size = batch_size
        self._every = every

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks the policies, before an epoch is spent.

        Raises:
          PolicyError: If a policy does not fit the model.
        """
        space = policy_setter(self.model).space
        for policy in self._named().values():
            space.validate(policy)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluates and records, or NaN; leaves the policy in force as it was."""
        if logs is None:
            return
        if (epoch + 1) % self._every:
            model: KerasModel = self.model
            for name in self._named():
                for metric in model.metrics_names:
                    logs[f"val_{metric}/{name}"] = math.nan
            return
        setter = policy_setter(self.model)
        before = setter.current()
        for name, policy in self._named().items():
            setter(policy)
            for metric, value in self._evaluate().items():
                logs[f"val_{metric}/{name}"] = value
        setter(before)

    def _named(self) -> Mapping[str, Policy]:
        if isinstance(self._policies, Mapping):
            return self._policies
        space = policy_setter(self.model).space
        return {name: space.named(name) for name in self._policies}

    def _evaluate(self) -> dict[str, float]:
        model: KerasModel = self.model
        if isinstance(self._data, tuple):
            x, y = self._data
            return model.evaluate(
                x, y, batch_size=self._batch_size, verbose=0, return_dict=True
            )
        return model.evaluate(self._data, verbose=0, return_dict=True)
