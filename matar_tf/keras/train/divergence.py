"""The end of a training that diverged: at once, in one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from matar_tf.errors import ModelError
from matar_tf.keras._compat import KerasModel, keras, tf
from matar_tf.keras.checks import check_finite_weights

__all__ = ["EndsDiverged"]


class EndsDiverged(keras.callbacks.Callback):
    """Ends a training whose loss or weights are no longer finite.

    Put it before callbacks that save, so that nothing is saved of such a training.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = self._step = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Takes note of the epoch."""
        del logs
        self._epoch, self._step = epoch, 0

    def on_train_batch_end(
        self, batch: int, logs: Mapping[str, Any] | None = None
    ) -> None:
        """Looks at the loss.

        Raises:
          ModelError: If it is not finite.
        """
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss):
            raise ModelError(self._why(f"a loss of {loss}"))
        self._step = batch + 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Looks at the weights.

        Raises:
          ModelError: If one is not finite.
        """
        check_finite_weights(self.model)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Says in this block of an error of a quantizer what it comes of.

        TensorFlow refuses to quantize where weights or steps are not finite.

        Raises:
          ModelError: If weights are not finite where a step fails.
        """
        try:
            yield
        except tf.errors.InvalidArgumentError as error:
            try:
                check_finite_weights(self.model)
            except ModelError:
                raise ModelError(self._why("weights of NaN or infinity")) from error
            raise

    def _why(self, got: str) -> str:
        model: KerasModel = self.model
        rate = float(np.asarray(model.optimizer.learning_rate))
        return (
            f"Expected a training that stays finite, got {got} in epoch "
            f"{self._epoch + 1} at step {self._step + 1} with a learning rate of "
            f"{rate:.3g}: it diverged; train again with a smaller learning_rate or "
            "more warmup_epochs, and look for samples of other sizes."
        )
