"""Training from a float network to a multi-bitwidth one, with plain ``fit``."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from matar_tf.data import Data
from matar_tf.errors import DataError, ModelError
from matar_tf.keras._compat import KerasModel, Tensor, keras, tf
from matar_tf.keras.calibration import calibrate
from matar_tf.keras.policies import get_policy_space, policy_setter, set_policy
from matar_tf.keras.quantize import quantize_model
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import MatarQuantizeConfig
from matar_tf.keras.rewrite.check import raise_refusals
from matar_tf.keras.rewrite.prepare import check_model
from matar_tf.keras.stored import read_model
from matar_tf.keras.train.batch_norm import reestimate_batch_norm
from matar_tf.keras.train.callbacks import PolicyRandomizer
from matar_tf.keras.train.fit_loop import Schedule, augment, digest, fit
from matar_tf.keras.train.kurtosis import KurtosisRegularizer
from matar_tf.keras.train.losses import accuracy_metric, metrics_for
from matar_tf.keras.train.method import Method
from matar_tf.keras.train.soft_labels import ends_in_probabilities
from matar_tf.keras.train.trainer import MultiBitTrainer
from matar_tf.named_arrays import Arrays, items, num_rows, rows
from matar_tf.policy import Policy
from matar_tf.samplers import (
    IndependentSampler,
    balanced_policies,
)
from matar_tf.scales import FREE
from matar_tf.space import PolicySpace

__all__ = [
    "evaluate_policies",
    "load_float",
    "multi_bit_trainer",
    "train_float",
    "train_multi_bit",
]

_CALIBRATION_SAMPLES = 512
_ONE_POLICY_PART = 10  # statistics of one policy need a tenth of the batches


def train_float(
    build_model: Callable[[tuple[int, ...], int], KerasModel],
    data: Data,
    schedule: Schedule | None,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
) -> KerasModel:
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
      ModelError: If the folder holds another training, or the network's outputs are
        probabilities.
    """
    keras.utils.set_random_seed(seed)
    x, y = _arrays(data)
    num_classes = int(max(y.max(), data.y_test.max())) + 1
    model = build_model(tuple(x.shape[1:]), num_classes)
    raise_refusals(model.name, _why_no_logits(model))
    if schedule is not None:
        fit(model, data, schedule, seed, folder, [])
    return model


def load_float(path: str | Path, data: Data) -> KerasModel:
    """Loads a float network that was trained elsewhere, to start from.

    Compiles it for cross-entropy on logits and accuracy, whatever the file says.

    Args:
      path: What Keras saved: HDF5, ``.keras`` or a SavedModel.
      data: What it is to be trained and evaluated on.

    Raises:
      ModelError: If the file holds no Keras network, or one that could run foreign
        code, for other samples or classes, or whose outputs are probabilities.
    """
    model = read_model(path, compile=False)
    x, y = _arrays(data)
    num_classes = int(max(y.max(), data.y_test.max())) + 1
    if (
        len(model.inputs) != 1
        or len(model.outputs) != 1
        or tuple(model.input_shape[1:]) != x.shape[1:]
        or len(model.output_shape) != 2
        or model.output_shape[-1] < num_classes
        or ends_in_probabilities(model.outputs[0])
    ):
        raise ModelError(
            f"Expected a network from samples of shape {x.shape[1:]} to logits of "
            f"{num_classes} classes at {str(path)!r}, got one from {model.input_shape} "
            f"to {model.output_shape}."
        )
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[accuracy_metric()],
    )
    return model


# Each is a keyword by itself.
def train_multi_bit(  # noqa: PLR0913
    model: KerasModel,
    data: Data,
    schedule: Schedule,
    method: Method | None = None,
    *,
    space: PolicySpace | None = None,
    configs: Mapping[str, MatarQuantizeConfig] | None = None,
    signed_inputs: bool | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
) -> KerasModel:
    """Trains a multi-bitwidth copy of a float network under random policies.

    From scratch, if the network is untrained: let it not teach then, by
    ``distillation=0`` or ``teacher="sandwich"``.

    Args:
      model: The float network; its outputs are logits. Of several outputs, those whose
        labels are classes are, and others are trained for the mean squared error.
      data: Training data; see `Data` for several inputs and outputs.
      schedule: How long and in which steps.
      method: What to do beside that; None for the defaults of `Method`.
      space: Widths of every policy entry, and which scales the network has; None for
        the default of the model. A space of one policy trains a network dedicated to
        it.
      configs: What to do with some layers; see `quantize_model`.
      signed_inputs: Whether the input has levels below 0; None for what samples have.
      seed: Of policies, order and augmentation.
      folder: Where to save after every epoch, or None.

    Returns:
      The trained model, under its widest policy.

    Raises:
      DataError: If there are no training data, or they cannot be augmented.
      ModelError: If the model cannot be quantized, its outputs are probabilities, or
        the folder holds another training.
    """
    method = Method() if method is None else method
    check_model(model, besides=_why_no_logits(model))
    keras.utils.set_random_seed(seed)
    x, y = data.training()
    if signed_inputs is None:
        signed_inputs = any(bool(one.min() < 0) for _, one in items(x))
    quantized = quantize_model(
        model,
        space,
        configs=configs,
        signed_inputs=signed_inputs,
        norm_context=method.norm_context,
    )
    if method.kurtosis:
        _regularize_kurtosis(quantized, method.kurtosis)
    trainer = multi_bit_trainer(quantized, model, method)
    calibrate(quantized, _calibration_samples(x, seed))
    trained = get_policy_space(quantized)
    alone = trained.num_policies == 1
    randomizer = PolicyRandomizer(
        IndependentSampler() if alone else method.sampler, seed=seed
    )
    fit(
        trainer,
        data,
        schedule,
        seed,
        folder,
        [randomizer],
        identity={
            # An object without a name of its own has another address in each process.
            "method": re.sub(r" at 0x[0-9a-fA-F]+", "", str(method)),
            # Widths alone: Keras numbers layers without a name anew each time.
            "space": str([*trained.weights.values(), *trained.activations.values()]),
            **_ways(trained, configs or {}, signed_inputs=signed_inputs),
            "initial_weights": digest(model.get_weights()),
        },
        updates_per_step=trainer.updates_per_step,
    )
    if method.reestimation:
        num_batches = method.reestimation
        if alone:
            num_batches = -(-num_batches // _ONE_POLICY_PART)
        # Half as all of training saw them, half such that no pair of widths is rare.
        num_seen = num_batches - num_batches // 2
        seen = _seen_policies(trainer, randomizer, trained, num_seen, schedule, seed)
        balanced = balanced_policies(trained, num_batches // 2, seed)

        def augmented(batch: Tensor, number: int) -> Tensor:
            return augment(batch, tf.constant([seed, number], tf.int64))

        reestimate_batch_norm(
            quantized,
            x,
            policies=(*seen, *balanced),
            transform=augmented if schedule.augment else None,
            seed=seed,
            method="statistics",
        )
    set_policy(quantized, trained.widest())
    quantized.compile(loss=trainer.loss, metrics=metrics_for(quantized, y))
    return quantized


def _ways(
    space: PolicySpace,
    configs: Mapping[str, MatarQuantizeConfig],
    *,
    signed_inputs: bool,
) -> dict[str, str]:
    """Returns how a network is quantized, as far as it is not the usual way."""
    ways = {name: str(one.get_config()) for name, one in configs.items()}
    found = {"configs": f"{ways}, signed inputs {signed_inputs}"} if ways else {}
    return found if space.scale == FREE else {**found, "scale": space.scale}


def _arrays(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Returns training samples and labels for a network of one input and one output.

    Raises:
      DataError: If there are none, or some for several.
    """
    x, y = data.training()
    if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
        raise DataError(
            f"Expected one array each as x_train and y_train of {data.name!r}, got "
            "some by name; train such a float network with fit."
        )
    return x, y


def _calibration_samples(x: Arrays, seed: int) -> Arrays:
    """Returns some samples, drawn at random: files are often sorted."""
    if num_rows(x) <= _CALIBRATION_SAMPLES:
        return x
    rng = np.random.default_rng(seed)
    return rows(x, rng.choice(num_rows(x), _CALIBRATION_SAMPLES, replace=False))


def _why_no_logits(model: KerasModel) -> list[str]:
    """Returns why a model's outputs are not what the loss takes them for, or nothing.

    Args:
      model: Maybe one that cannot be quantized.
    """
    outputs = getattr(model, "outputs", None) or []
    if len(outputs) != 1 or not ends_in_probabilities(outputs[0]):
        return []  # of several outputs labels say which are to be logits
    return [
        f"Expected a network whose outputs are logits, but {model.name!r} ends in "
        "a softmax or sigmoid, and the loss takes logits; leave that out."
    ]


def _seen_policies(
    trainer: MultiBitTrainer,
    randomizer: PolicyRandomizer,
    space: PolicySpace,
    number: int,
    schedule: Schedule,
    seed: int,
) -> list[Policy]:
    """Returns policies in the shares in which all of training saw them."""
    rng = np.random.default_rng(seed)
    policies: list[Policy] = []
    for index in range(number):
        seat = index % trainer.passes_per_step
        if seat < len(trainer.sandwich):
            policies.append(trainer.sandwich[seat])
        else:
            sampler = randomizer.sampler_of(index * schedule.epochs // number)
            policies.append(sampler(space, rng))
    return policies


def multi_bit_trainer(
    model: KerasModel, network: KerasModel, method: Method
) -> MultiBitTrainer:
    """Returns the trainer that a method asks for.

    Args:
      model: The multi-bitwidth model.
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


def _regularize_kurtosis(model: KerasModel, rate: float) -> None:
    regularizer = KurtosisRegularizer(rate)
    for layer in model.layers:
        quantizer = wrapper.kernel_quantizer(layer)
        if quantizer is not None and quantizer.layer is layer:
            kernel = wrapper.kernel_variable(layer)
            model.add_loss(functools.partial(regularizer, kernel))


def evaluate_policies(
    model: KerasModel, x: Arrays, y: Arrays, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Returns loss and accuracy of a compiled model under uniform policies.

    The policy in force stays in force.
    """
    setter = policy_setter(model)
    before = setter.current()
    found: dict[str, dict[str, float]] = {}
    for name in names:
        setter(name)
        found[name] = model.evaluate(x, y, batch_size=256, verbose=0, return_dict=True)
    setter(before)
    return found
