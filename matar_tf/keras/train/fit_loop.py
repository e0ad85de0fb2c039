"""``fit`` with a schedule, augmentation and a checkpoint after every epoch.

Order, augmentation and policies of a batch depend on the seed, the epoch and the batch
alone: a training that was stopped goes on, from the same folder, to the result that it
would have had without the stop. Dropout is the exception: TensorFlow keeps its random
numbers in the process, and those after the stop are others.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matar_tf.data import Data
from matar_tf.errors import DataError, ModelError
from matar_tf.io.json_reader import JsonReader
from matar_tf.keras._compat import KerasModel, Tensor, keras, tf
from matar_tf.keras.train.divergence import EndsDiverged
from matar_tf.keras.train.losses import losses_for, metrics_for
from matar_tf.named_arrays import Arrays, each, items, num_rows

__all__ = ["Schedule", "augment", "digest", "fit"]

_SHIFT = 4  # pixels, as in He et al., CVPR 2016, section 4.2
_FINAL_LEARNING_RATE = 0.01  # of the peak
_OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adam": keras.optimizers.Adam,
    "sgd": functools.partial(keras.optimizers.SGD, momentum=0.9, nesterov=True),
}
_BFLOAT16 = "auto_mixed_precision_onednn_bfloat16"
_optimizer: Any = tf.config.optimizer
_random: Any = tf.random  # the type stubs lack parts of it


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and in which steps to train.

    Attributes:
      epochs: Number of epochs.
      learning_rate: Peak of the schedule: a linear rise over the first epochs, then
        a cosine that ends at 1 % of the peak.
      batch_size: Of the training batches.
      augment: Whether to mirror images and to shift them by up to 4 pixels at random.
      optimizer: ``adam``, or ``sgd`` with Nesterov momentum 0.9.
      warmup_epochs: Length of the rise.
      ema: Momentum of a moving average of the weights that replaces them in the end;
        0 for none.
      bfloat16: Whether ``fit`` computes convolutions and matrix products in bfloat16,
        by TensorFlow's automatic mixed precision for CPUs. Weights, their updates, the
        quantizers and everything after ``fit`` stay in float32. Gains time where the
        CPU has such instructions (AVX512_BF16, AMX).
    """

    epochs: int
    learning_rate: float
    batch_size: int
    augment: bool = False
    optimizer: str = "adam"
    warmup_epochs: int = 0
    ema: float = 0.0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.learning_rate > 0:
            raise ModelError(
                "Expected at least one epoch, one sample in a batch and a learning "
                f"rate above 0, got {self}."
            )
        if self.optimizer not in _OPTIMIZERS:
            raise ModelError(
                f"Expected the optimizer {' or '.join(_OPTIMIZERS)}, got "
                f"{self.optimizer!r}."
            )
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ModelError(
                f"Expected a warm-up shorter than the {self.epochs} epochs, got "
                f"{self.warmup_epochs}."
            )
        if not 0.0 <= self.ema < 1.0:
            raise ModelError(f"Expected a momentum ema in 0..1, got {self.ema}.")


def fit(
    model: KerasModel,
    data: Data,
    schedule: Schedule,
    seed: int,
    folder: str | Path | None,
    callbacks: list[Any],
    *,
    identity: Mapping[str, str] | None = None,
    updates_per_step: int = 1,
) -> None:
    """Compiles a model and trains it as a schedule says.

    Args:
      model: The model, or a trainer in its place; its outputs are logits. Of several
        outputs, those with classes as labels are, and others are trained for the mean
        squared error.
      data: Training data.
      schedule: How long and in which steps.
      seed: Of order and augmentation.
      folder: Where to save after every epoch, or None.
      callbacks: Of Keras, beside the one that saves.
      identity: What tells the training from others beside data, schedule and seed;
        None for a digest of the model's weights.
      updates_per_step: Steps of the optimizer for each batch.

    Raises:
      DataError: If there are no training data, or they cannot be augmented.
      ModelError: If the folder holds another training, or the training diverges.
    """
    x, y = data.training()
    shape = getattr(x, "shape", None)  # several arrays by name have none
    if schedule.augment and len(shape or ()) != 4:
        raise DataError(
            f"Expected images [num_samples, height, width, channels] to augment, got "
            f"samples of shape {shape or 'several inputs'}; train without augment."
        )
    steps_per_epoch = -(-num_rows(x) // schedule.batch_size)
    updates_per_epoch = steps_per_epoch * updates_per_step
    learning_rate: Any = keras.optimizers.schedules.CosineDecay(
        0.0 if schedule.warmup_epochs else schedule.learning_rate,
        (schedule.epochs - schedule.warmup_epochs) * updates_per_epoch,
        alpha=_FINAL_LEARNING_RATE,
        warmup_target=schedule.learning_rate if schedule.warmup_epochs else None,
        warmup_steps=schedule.warmup_epochs * updates_per_epoch,
    )
    model.compile(
        _OPTIMIZERS[schedule.optimizer](
            learning_rate, use_ema=schedule.ema > 0.0, ema_momentum=schedule.ema
        ),
        losses_for(model, y),
        metrics=metrics_for(model, y),
    )
    watch = EndsDiverged()
    callbacks = [*callbacks, watch]
    first_epoch = 0
    if folder is not None:
        if identity is None:
            identity = {"initial_weights": digest(model.get_weights())}
        backup = _Backup(
            model, Path(folder), _describe(model, data, schedule, seed, identity)
        )
        first_epoch = backup.restore()
        callbacks = [*callbacks, backup]
    if first_epoch < schedule.epochs:
        with _mixed_precision(schedule.bfloat16), watch.watching():
            model.fit(
                _batches(x, y, schedule, seed, first_epoch),
                initial_epoch=first_epoch,
                epochs=schedule.epochs,
                steps_per_epoch=steps_per_epoch,
                callbacks=callbacks,
                verbose=2,
            )
    if schedule.ema:
        model.optimizer.finalize_variable_values(model.trainable_variables)


@contextlib.contextmanager
def _mixed_precision(enabled: bool) -> Iterator[None]:
    """Lets the graph optimizer move convolutions to bfloat16, in this block only."""
    before = _optimizer.get_experimental_options().get(_BFLOAT16, False)
    _optimizer.set_experimental_options({_BFLOAT16: enabled or before})
    try:
        yield
    finally:
        _optimizer.set_experimental_options({_BFLOAT16: before})


class _Backup(keras.callbacks.Callback):
    """Saves model, optimizer and epoch after every epoch, and brings them back.

    Unlike ``BackupAndRestore`` it tells the epoch before ``fit`` starts, so that the
    data can start there as well, and it does not mistake one training for another.

    Args:
      model: The compiled model.
      folder: Where to save.
      description: What tells this training from others, as JSON.
    """

    def __init__(self, model: KerasModel, folder: Path, description: str) -> None:
        super().__init__()
        self._description = description
        self._file = folder / "training.json"
        self._epochs_done = tf.Variable(tf.constant(0, tf.int64))
        # The variables of the optimizer must be there to be restored.
        model.optimizer.build(model.trainable_variables)
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(
                model=model, optimizer=model.optimizer, epochs_done=self._epochs_done
            ),
            str(folder),
            max_to_keep=1,
        )

    def restore(self) -> int:
        """Brings back what was saved; returns the number of epochs done.

        Raises:
          ModelError: If the folder holds another training.
        """
        latest = self._manager.latest_checkpoint
        if latest is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(self._description, encoding="utf-8")
            return 0
        is_there = self._file.is_file()
        found = self._file.read_bytes() if is_there else b"{}"
        if found != self._description.encode():
            ours = json.loads(self._description)
            theirs = JsonReader(ModelError).parse(found, str(self._file))
            known = theirs if isinstance(theirs, dict) else {}
            differing = [key for key in ours if ours[key] != known.get(key)]
            raise ModelError(
                f"Expected the training that was begun in {self._file.parent}, but it "
                f"holds another: {', '.join(differing)} differ; remove it, or choose "
                "another folder."
            )
        status = self._manager.checkpoint.restore(latest)
        status.assert_existing_objects_matched()
        return int(self._epochs_done.numpy())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves.

        Raises:
          ModelError: If the disk does not take it.
        """
        self._epochs_done.assign(epoch + 1)
        try:
            self._manager.save()
        except tf.errors.OpError as error:
            reason = str(error.message).split(" [Op")[0].rpartition("; ")[2]
            raise ModelError(
                f"Expected to save the training in {self._file.parent}, got "
                f"{reason!r}; make room there, and begin again as before: it goes on "
                "after the last epoch that was saved."
            ) from error


def digest(arrays: Iterable[np.ndarray]) -> str:
    """Returns the SHA-256 of some arrays."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def _listed(parts: Sequence[Arrays]) -> Iterator[np.ndarray]:
    """Yields arrays, those by names in the order of these."""
    for part in parts:
        yield from (one for _, one in sorted(items(part), key=lambda pair: pair[0]))


def _describe(
    model: KerasModel,
    data: Data,
    schedule: Schedule,
    seed: int,
    identity: Mapping[str, str],
) -> str:
    description = {
        "model": model.name,
        "weights": [list(weight.shape) for weight in model.weights],
        "data": data.name,
        "data_digest": data.digest(),
        "training_digest": digest([*_listed(data.training())]),
        "num_samples": num_rows(data.training()[0]),
        "schedule": asdict(schedule),
        **identity,
        "seed": seed,
    }
    return json.dumps(description)


def _batches(
    x: Arrays, y: Arrays, schedule: Schedule, seed: int, first_epoch: int
) -> Any:
    """Returns the batches of all epochs from `first_epoch` on, one after the other."""
    samples, labels = each(tf.constant, x), each(tf.constant, y)

    def epoch_batches(epoch: Tensor) -> Any:
        order = _random.experimental.stateless_shuffle(
            tf.range(num_rows(x)), seed=tf.stack([tf.constant(seed, tf.int64), epoch])
        )
        indices = tf.data.Dataset.from_tensor_slices(order).batch(schedule.batch_size)
        return indices.enumerate().map(
            lambda number, index: (tf.stack([epoch, number]), index)
        )

    def batch(place: Tensor, index: Tensor) -> tuple[Any, Any]:
        images = each(lambda one: tf.gather(one, index), samples)
        if schedule.augment:
            key = tf.stack([tf.constant(seed, tf.int64), place[0]])
            images = augment(images, _random.fold_in(key, place[1]))
        return images, each(lambda one: tf.gather(one, index), labels)

    return (
        tf.data.Dataset.range(first_epoch, schedule.epochs)
        .flat_map(epoch_batches)
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def augment(images: Tensor, key: Tensor) -> Tensor:
    """Mirrors half of the images, shifts each by up to 4 pixels; zeros come in.

    Args:
      images: Shape ``[batch, height, width, channels]``.
      key: Seed of stateless random numbers, ``[2]``.
    """
    keys = _random.split(key, 3)
    count = tf.shape(images)[0]
    mirrored = _random.stateless_uniform((count, 1, 1, 1), keys[0]) < 0.5
    images = tf.where(mirrored, tf.reverse(images, [2]), images)
    padding = [[0, 0], [_SHIFT, _SHIFT], [_SHIFT, _SHIFT], [0, 0]]
    padded = tf.pad(images, padding)
    for axis, key_of_axis in ((1, keys[1]), (2, keys[2])):
        starts = _random.stateless_uniform(
            (count, 1), key_of_axis, 0, 2 * _SHIFT + 1, tf.int32
        )
        window = starts + tf.range(images.shape[axis])
        padded = tf.gather(padded, window, axis=axis, batch_dims=1)
    return padded
