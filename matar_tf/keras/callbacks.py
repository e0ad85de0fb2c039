"""Keras callbacks: a new policy for every batch, metrics for named policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from matar_tf.keras._compat import keras
from matar_tf.keras.quantize import PolicySetter, policy_setter
from matar_tf.keras.samplers import MixtureSampler, Sampler
from matar_tf.policy import Policy

__all__ = ["PolicyMetrics", "PolicyRandomizer"]


class PolicyRandomizer(keras.callbacks.Callback):
    """Puts a new policy in force before every training batch.

    The policy of a batch depends on the seed, the epoch and the batch alone, so a
    training that was killed and restored (``BackupAndRestore``) goes on as if it had
    not been. Evaluation, and the model after training, use one fixed policy.

    Args:
      sampler: Draws the policies; by default half uniform, half independent.
      seed: Of all draws.
      evaluation_policy: Name of the uniform policy for evaluation, or a policy; None
        for the widest.
    """

    def __init__(
        self,
        sampler: Sampler | None = None,
        *,
        seed: int = 0,
        evaluation_policy: Policy | str | None = None,
    ) -> None:
        super().__init__()
        self._sampler = MixtureSampler() if sampler is None else sampler
        self._seed = seed
        self._evaluation_policy = evaluation_policy
        self._epoch = 0
        self._history: list[tuple[int, int, np.ndarray]] = []
        self._setter: Any = None
        self._before_test: np.ndarray | None = None

    @property
    def history(self) -> list[tuple[int, int, Policy]]:
        """Epoch, batch and policy of every training batch so far."""
        return [
            (epoch, batch, self._setter.policy(rows))
            for epoch, batch, rows in self._history
        ]

    def set_model(self, model: Any) -> None:
        """Finds the quantizers of the model; called by Keras."""
        super().set_model(model)
        self._setter: PolicySetter = policy_setter(model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remembers the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Draws the policy of this batch and puts it in force."""
        rng = np.random.default_rng((self._seed, self._epoch, batch))
        rows = self._setter.rows(self._sampler(self._setter.space, rng))
        self._setter.assign_rows(rows)
        self._history.append((self._epoch, batch, rows.astype(np.int8)))

    def on_test_begin(self, logs: Any = None) -> None:
        """Puts the evaluation policy in force for validation within ``fit``."""
        self._apply_evaluation_policy()

    def on_train_end(self, logs: Any = None) -> None:
        """Leaves the model under the evaluation policy."""
        self._apply_evaluation_policy()

    def _apply_evaluation_policy(self) -> None:
        policy = self._evaluation_policy
        self._setter(self._setter.widest() if policy is None else policy)


class PolicyMetrics(keras.callbacks.Callback):
    """Evaluates named policies after an epoch and adds the metrics to ``logs``.

    The keys are ``val_accuracy/w4a4``: History, TensorBoard, EarlyStopping and
    ModelCheckpoint see them if they stand after this callback in the list.

    Args:
      validation_data: ``(x, y)`` arrays, or a ``tf.data.Dataset``.
      policies: Names of uniform policies, or named policies.
      batch_size: For arrays.
      every: Evaluate after every so many epochs.
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
        self._data = validation_data
        self._policies = policies
        self._batch_size = batch_size
        self._every = every

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluates and records; leaves the policy in force as it was."""
        if logs is None or (epoch + 1) % self._every:
            return
        setter = policy_setter(self.model)
        before = setter.current()
        named = self._policies
        if not isinstance(named, Mapping):
            named = {name: setter.space.named(name) for name in named}
        for name, policy in named.items():
            setter(policy)
            for metric, value in self._evaluate().items():
                logs[f"val_{metric}/{name}"] = value
        setter(before)

    def _evaluate(self) -> dict[str, float]:
        if isinstance(self._data, tuple):
            x, y = self._data
            return self.model.evaluate(
                x, y, batch_size=self._batch_size, verbose=0, return_dict=True
            )
        return self.model.evaluate(self._data, verbose=0, return_dict=True)
