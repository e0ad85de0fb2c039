"""Training from a float network to a multi-bitwidth one, with plain ``fit``.

Order, augmentation and policies of a batch depend on the seed, the epoch and the batch
alone, and both trainings are saved after every epoch: started again with the same
folder, they go on to the result that they would have had without the stop.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matar_tf.data import Data
from matar_tf.errors import DataError, ModelError
from matar_tf.keras import graph
from matar_tf.keras._compat import keras, tf
from matar_tf.keras.callbacks import PolicyRandomizer
from matar_tf.keras.quantize import (
    NORM_CONTEXT,
    calibrate,
    get_policy_space,
    policy_setter,
    quantize_model,
    set_policy,
)
from matar_tf.keras.statistics import KurtosisRegularizer, reestimate_batch_norm
from matar_tf.keras.trainer import MultiBitTrainer
from matar_tf.policy import PolicySpace
from matar_tf.samplers import (
    IndependentSampler,
    MixtureSampler,
    Sampler,
    balanced_policies,
)

__all__ = [
    "Method",
    "Schedule",
    "evaluate_policies",
    "multi_bit_trainer",
    "train_float",
    "train_multi_bit",
]

_CALIBRATION_SAMPLES = 512
_ONE_POLICY_PART = 10  # statistics of one policy need a tenth of the batches
_SHIFT = 4  # pixels, as in He et al., CVPR 2016, section 4.2
_FINAL_LEARNING_RATE = 0.01  # of the peak
_OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adam": keras.optimizers.Adam,
    "sgd": functools.partial(keras.optimizers.SGD, momentum=0.9, nesterov=True),
}
_DEFAULT_SAMPLER = MixtureSampler()
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


@dataclass(frozen=True, kw_only=True)
class Method:
    """What makes a network good at many policies; each part can be switched off.

    Attributes:
      sampler: Draws the policy of each batch, or samplers by the epoch from which on
        they draw; see `PolicyRandomizer`. Not asked for a space of one policy.
      distillation: Share of soft labels in the loss; see `MultiBitTrainer`.
      temperature: Of the soft labels.
      teacher: Who gives them: ``float``, the network that training starts from, or
        ``sandwich``, its first policy on the same batch.
      sandwich: Policies that every step sees beside the sampler's: ``widest``,
        ``narrowest`` and names of uniform ones; each costs a pass.
      draws: Policies that the sampler draws for every step; each costs a pass.
      update_every_pass: Whether the optimizer takes a step after each pass, not one
        for their sum.
      step_rates: Factors on the learning rate of the quantizers' steps, as pairs of
        a width and a factor; see `MultiBitTrainer`.
      norm_context: Number of entries before a layer by whose widths its batch norm
        keeps statistics apart, beside its own; see `quantize_model`.
      kurtosis: Rate of a `KurtosisRegularizer` on every kernel; 0 for none.
      reestimation: Number of batches that batch norm statistics are estimated from
        again after training, on training samples, a tenth of them for a space of one
        policy; 0 to keep the moving averages.
    """

    sampler: Sampler | Mapping[int, Sampler] = _DEFAULT_SAMPLER
    distillation: float = 0.5
    temperature: float = 1.0
    teacher: str = "float"
    sandwich: tuple[str, ...] = ()
    draws: int = 1
    update_every_pass: bool = False
    step_rates: tuple[tuple[int, float], ...] = ()
    norm_context: int = NORM_CONTEXT
    kurtosis: float = 0.0
    reestimation: int = 400

    def __post_init__(self) -> None:
        if self.teacher not in ("float", "sandwich"):
            raise ModelError(
                f"Expected the teacher float or sandwich, got {self.teacher!r}."
            )


def train_float(
    build_model: Callable[[tuple[int, ...], int], Any],
    data: Data,
    schedule: Schedule | None,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
) -> Any:
    """Trains a float network with Adam, a cosine schedule and cross-entropy on logits.

    Args:
      build_model: Function of ``(input_shape, num_classes)``.
      data: Training data.
      schedule: How long and in which steps; None for a network with random weights,
        which `train_multi_bit` takes as well (without a float teacher).
      seed: Of initial weights, order and augmentation.
      folder: Where to save after every epoch, or None.

    Returns:
      The model, trained if there is a schedule.

    Raises:
      DataError: If there are no training data, or they cannot be augmented.
      ModelError: If the folder holds another training.
    """
    keras.utils.set_random_seed(seed)
    x, y = data.training()
    num_classes = int(max(y.max(), data.y_test.max())) + 1
    model = build_model(tuple(x.shape[1:]), num_classes)
    if schedule is not None:
        _fit(model, data, schedule, seed, folder, [])
    return model


def train_multi_bit(
    model: Any,
    data: Data,
    schedule: Schedule,
    method: Method | None = None,
    *,
    space: PolicySpace | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
) -> Any:
    """Trains a multi-bitwidth copy of a float network under random policies.

    From scratch, if the network is untrained: let it not teach then, by
    ``distillation=0`` or ``teacher="sandwich"``.

    Args:
      model: The float network; its outputs are logits.
      data: Training data.
      schedule: How long and in which steps.
      method: What to do beside that; None for the defaults of `Method`.
      space: Widths of every policy entry; None for the default of the model. A space
        of one policy trains a network dedicated to it.
      seed: Of policies, order and augmentation.
      folder: Where to save after every epoch, or None.

    Returns:
      The trained model, under its widest policy.

    Raises:
      DataError: If there are no training data, or they cannot be augmented.
      ModelError: If the model cannot be quantized, or the folder holds another
        training.
    """
    method = Method() if method is None else method
    keras.utils.set_random_seed(seed)
    x, _ = data.training()
    quantized = quantize_model(
        model,
        space,
        signed_inputs=bool(x.min() < 0),
        norm_context=method.norm_context,
    )
    if method.kurtosis:
        _regularize_kurtosis(quantized, method.kurtosis)
    calibrate(quantized, x[:_CALIBRATION_SAMPLES])
    trainer = multi_bit_trainer(quantized, model, method)
    trained = get_policy_space(quantized)
    alone = trained.num_policies == 1
    randomizer = PolicyRandomizer(
        IndependentSampler() if alone else method.sampler, seed=seed
    )
    _fit(
        trainer,
        data,
        schedule,
        seed,
        folder,
        [randomizer],
        method=str(method),
        updates_per_step=trainer.updates_per_step,
    )
    if method.reestimation:
        num_batches = method.reestimation
        if alone:
            num_batches = -(-num_batches // _ONE_POLICY_PART)
        # Half as all of training drew them, half such that no pair of widths is rare.
        num_drawn = num_batches - num_batches // 2
        rng = np.random.default_rng(seed)
        drawn = [
            randomizer.sampler_of(number * schedule.epochs // num_drawn)(trained, rng)
            for number in range(num_drawn)
        ]
        balanced = balanced_policies(trained, num_batches // 2, seed)

        def augment(batch: Any, number: int) -> Any:
            return _augment(batch, tf.constant([seed, number], tf.int64))

        reestimate_batch_norm(
            quantized,
            x,
            policies=(*drawn, *balanced),
            transform=augment if schedule.augment else None,
            seed=seed,
        )
    set_policy(quantized, trained.widest())
    quantized.compile(loss=trainer.loss, metrics=[_accuracy()])
    return quantized


def multi_bit_trainer(model: Any, network: Any, method: Method) -> MultiBitTrainer:
    """Returns the trainer that a method asks for.

    Args:
      model: The multi-bitwidth model, calibrated.
      network: The float network that it was made from; teaches, if the method says so.
      method: What training does.

    Raises:
      ModelError: If nothing can give the soft labels, or a field is out of its range.
      PolicyError: If the model does not have a policy of the sandwich.
    """
    return MultiBitTrainer(
        model,
        teacher=network if method.teacher == "float" else None,
        distillation=method.distillation,
        temperature=method.temperature,
        sandwich=method.sandwich,
        draws=method.draws,
        update_every_pass=method.update_every_pass,
        step_rates=dict(method.step_rates),
    )


def _regularize_kurtosis(model: Any, rate: float) -> None:
    regularizer = KurtosisRegularizer(rate)
    for layer in model.layers:
        quantizer = graph.kernel_quantizer(layer)
        if quantizer is not None:
            kernel = graph.kernel_variable(layer)
            model.add_loss(functools.partial(regularizer, kernel))


def evaluate_policies(
    model: Any, x: np.ndarray, y: np.ndarray, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Returns loss and accuracy of a compiled model under uniform policies.

    The policy in force stays in force.
    """
    setter = policy_setter(model)
    before = setter.current()
    rows: dict[str, dict[str, float]] = {}
    for name in names:
        setter(name)
        rows[name] = model.evaluate(x, y, batch_size=256, verbose=0, return_dict=True)
    setter(before)
    return rows


def _accuracy() -> Any:
    # By name, Keras would guess one for one-hot labels once the model was saved.
    return keras.metrics.SparseCategoricalAccuracy(name="accuracy")


def _fit(
    model: Any,
    data: Data,
    schedule: Schedule,
    seed: int,
    folder: str | Path | None,
    callbacks: list[Any],
    *,
    method: str = "",
    updates_per_step: int = 1,
) -> None:
    x, y = data.training()
    if schedule.augment and x.ndim != 4:
        raise DataError(
            f"Expected images [num_samples, height, width, channels] to augment, got "
            f"samples of shape {x.shape}; train without augment."
        )
    steps_per_epoch = -(-len(x) // schedule.batch_size)
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
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[_accuracy()],
    )
    first_epoch = 0
    if folder is not None:
        backup = _Backup(
            model, Path(folder), _describe(model, data, schedule, seed, method)
        )
        first_epoch = backup.restore()
        callbacks = [*callbacks, backup]
    if first_epoch < schedule.epochs:
        with _mixed_precision(schedule.bfloat16):
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

    def __init__(self, model: Any, folder: Path, description: str) -> None:
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
            self._file.write_text(self._description)
            return 0
        found = self._file.read_text() if self._file.is_file() else "{}"
        if found != self._description:
            ours, theirs = json.loads(self._description), json.loads(found)
            differing = [key for key in ours if ours[key] != theirs.get(key)]
            raise ModelError(
                f"Expected the training that was begun in {self._file.parent}, but it "
                f"holds another: {', '.join(differing)} differ; remove it, or choose "
                "another folder."
            )
        status = self._manager.checkpoint.restore(latest)
        status.assert_existing_objects_matched()
        return int(self._epochs_done.numpy())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves."""
        self._epochs_done.assign(epoch + 1)
        self._manager.save()


def _describe(
    model: Any, data: Data, schedule: Schedule, seed: int, method: str
) -> str:
    description = {
        "model": model.name,
        "weights": [list(weight.shape) for weight in model.weights],
        "data": data.name,
        "data_digest": data.digest(),
        "num_samples": len(data.training()[0]),
        "schedule": asdict(schedule),
        "method": method,
        "seed": seed,
    }
    return json.dumps(description)


def _batches(
    x: np.ndarray, y: np.ndarray, schedule: Schedule, seed: int, first_epoch: int
) -> Any:
    """Returns the batches of all epochs from `first_epoch` on, one after the other."""
    samples, labels = tf.constant(x), tf.constant(y)

    def epoch_batches(epoch: Any) -> Any:
        order = _random.experimental.stateless_shuffle(
            tf.range(len(x)), seed=tf.stack([tf.constant(seed, tf.int64), epoch])
        )
        indices = tf.data.Dataset.from_tensor_slices(order).batch(schedule.batch_size)
        return indices.enumerate().map(
            lambda number, index: (tf.stack([epoch, number]), index)
        )

    def batch(place: Any, index: Any) -> tuple[Any, Any]:
        images = tf.gather(samples, index)
        if schedule.augment:
            key = tf.stack([tf.constant(seed, tf.int64), place[0]])
            images = _augment(images, _random.fold_in(key, place[1]))
        return images, tf.gather(labels, index)

    return (
        tf.data.Dataset.range(first_epoch, schedule.epochs)
        .flat_map(epoch_batches)
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _augment(images: Any, key: Any) -> Any:
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
