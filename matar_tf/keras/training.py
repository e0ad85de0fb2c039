"""Training from a float network to a multi-bitwidth one, with plain ``fit``.

Both trainings are saved after every epoch (``BackupAndRestore``): started again with
the same folder, they go on where they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matar_tf.data import Data
from matar_tf.keras._compat import keras, tf
from matar_tf.keras.callbacks import PolicyRandomizer
from matar_tf.keras.quantize import calibrate, quantize_model, set_policy
from matar_tf.keras.samplers import Sampler
from matar_tf.policy import PolicySpace

__all__ = ["evaluate_policies", "train_float", "train_multi_bit"]

_CALIBRATION_SAMPLES = 512
_SHIFT = 4  # pixels, as in He et al., CVPR 2016, section 4.2


def train_float(
    build_model: Callable[[tuple[int, ...], int], Any],
    data: Data,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    augment: bool = False,
    seed: int = 0,
    folder: str | Path | None = None,
) -> Any:
    """Trains a float network with Adam, a cosine schedule and cross-entropy on logits.

    Args:
      build_model: Function of ``(input_shape, num_classes)``.
      data: Training data.
      epochs: Number of epochs.
      learning_rate: Peak of the schedule.
      batch_size: Of the training batches.
      augment: Whether to shift and mirror images at random.
      seed: Of initial weights, order and augmentation.
      folder: Where to save after every epoch, or None.

    Returns:
      The trained model.
    """
    keras.utils.set_random_seed(seed)
    x, y = data.training()
    model = build_model(tuple(x.shape[1:]), int(y.max()) + 1)
    _fit(model, x, y, epochs, learning_rate, batch_size, augment, seed, folder, [])
    return model


def train_multi_bit(
    model: Any,
    data: Data,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    space: PolicySpace | None = None,
    sampler: Sampler | None = None,
    augment: bool = False,
    seed: int = 0,
    folder: str | Path | None = None,
) -> Any:
    """Trains a multi-bitwidth copy of a float network under random policies.

    Args:
      model: The float network.
      data: Training data.
      epochs: Number of epochs.
      learning_rate: Peak of the schedule.
      batch_size: Of the training batches.
      space: Widths of every policy entry; None for the default of the model.
      sampler: Draws the policy of each batch; see `PolicyRandomizer`.
      augment: Whether to shift and mirror images at random.
      seed: Of policies, order and augmentation.
      folder: Where to save after every epoch, or None.

    Returns:
      The trained model, under its widest policy.
    """
    keras.utils.set_random_seed(seed)
    x, y = data.training()
    quantized = quantize_model(model, space, signed_inputs=bool(x.min() < 0))
    calibrate(quantized, x[:_CALIBRATION_SAMPLES])
    randomizer = PolicyRandomizer(sampler, seed=seed)
    _fit(
        quantized, x, y, epochs, learning_rate, batch_size, augment, seed, folder,
        [randomizer],
    )  # fmt: skip
    return quantized


def evaluate_policies(
    model: Any, x: np.ndarray, y: np.ndarray, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Returns loss and accuracy of a compiled model under uniform policies."""
    rows: dict[str, dict[str, float]] = {}
    for name in names:
        set_policy(model, name)
        rows[name] = model.evaluate(x, y, batch_size=256, verbose=0, return_dict=True)
    return rows


def _fit(  # noqa: PLR0913 - private; the public functions name what they pass
    model: Any,
    x: np.ndarray,
    y: np.ndarray,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    augment: bool,
    seed: int,
    folder: str | Path | None,
    callbacks: list[Any],
) -> None:
    steps_per_epoch = -(-len(x) // batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate,
        epochs * steps_per_epoch,
        alpha=0.01,
    )
    model.compile(
        keras.optimizers.Adam(schedule),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    if folder is not None:
        backup = keras.callbacks.BackupAndRestore(str(folder), delete_checkpoint=False)
        callbacks = [*callbacks, backup]
    dataset = _batches(x, y, batch_size, augment, seed)
    model.fit(dataset, epochs=epochs, callbacks=callbacks, verbose=2)


def _batches(
    x: np.ndarray, y: np.ndarray, batch_size: int, augment: bool, seed: int
) -> Any:
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    dataset = dataset.shuffle(len(x), seed=seed).batch(batch_size)
    if augment:
        counter = tf.data.Dataset.random(seed=seed)
        dataset = tf.data.Dataset.zip((dataset, counter)).map(
            lambda sample, number: (_augment(sample[0], number), sample[1]),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
    return dataset.prefetch(tf.data.AUTOTUNE)


def _augment(images: Any, number: Any) -> Any:
    """Mirrors half of the images, shifts each by up to 4 pixels."""
    seeds = tf.random.split(tf.stack([tf.cast(number, tf.int32), 0]), 3)
    count = tf.shape(images)[0]
    mirrored = tf.random.stateless_uniform((count, 1, 1, 1), seeds[0]) < 0.5
    images = tf.where(mirrored, tf.reverse(images, [2]), images)
    height, width = images.shape[1], images.shape[2]
    padding = [[0, 0], [_SHIFT, _SHIFT], [_SHIFT, _SHIFT], [0, 0]]
    padded = tf.pad(images, padding)
    rows, columns = (
        tf.random.stateless_uniform((count, 1), seed, 0, 2 * _SHIFT + 1, tf.int32)
        + tf.range(size)
        for seed, size in ((seeds[1], height), (seeds[2], width))
    )
    padded = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(padded, columns, axis=2, batch_dims=1)
