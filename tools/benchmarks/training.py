"""The measurements of ``tools/benchmark.py training``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from matar_tf import keras as matar
from matar_tf.data import Data, load_data
from matar_tf.keras._compat import keras, tfmot
from recipes.common import RecipeConfig, load_recipe
from tools.benchmarks.bars import Bar

__all__ = ["interleaved", "measure_training", "training_bars", "training_step"]

_NUM_ROUNDS = 40
_NUM_WARM = 3
_NUM_TARGETS = 5
_MAX_RATIO = 1.1
_IMAGE_SHAPE = 32, 32, 3
_NUM_CLASSES = 10
_NUM_IMAGES = 50_000


def measure_training(recipe: str, data_spec: str | None, *, seed: int) -> Iterator[Bar]:
    """Yields the bars of training a recipe's network.

    Args:
      recipe: Name of the recipe.
      data_spec: Its data; None for random images of CIFAR-10's size and number.
      seed: Of everything random.
    """
    config = load_recipe(recipe)
    batch_size = config.multi_bit_schedule.batch_size
    data = load_data(data_spec) if data_spec else _random_images(batch_size, seed)
    x, y = data.training()
    num_samples = len(x) if data_spec else _NUM_IMAGES
    batch = x[:batch_size], y[:batch_size]
    network = matar.train_float(config.build_model, data, None, seed=seed)
    shared = matar.quantize_model(network)
    space = matar.get_policy_space(shared)
    alone = matar.quantize_model(network, space.only(space.named("w4a4")))

    def teaching(model: Any) -> Any:
        matar.calibrate(model, batch[0])
        return matar.multi_bit_trainer(model, network, config.method)

    stock = tfmot.quantization.keras.quantize_model(network)
    randomizer = matar.PolicyRandomizer(config.method.sampler, seed=seed)
    steps = {
        "recipe": training_step(teaching(shared), batch, randomizer),
        "plain": training_step(shared, batch, randomizer),
        "dedicated": training_step(teaching(alone), batch, None),
        "stock": training_step(stock, batch, None),
        "float": training_step(network, batch, None),
    }
    seconds = interleaved(steps)
    yield from training_bars(seconds, config, num_samples)


def training_bars(
    seconds: Mapping[str, float], config: RecipeConfig, num_samples: int
) -> Iterator[Bar]:
    """Yields the bars of measured steps.

    Args:
      seconds: Of one step each: the ``recipe``'s with all of its passes, a ``plain``
        one of its network, a ``dedicated`` one for one policy alone, with a teacher,
        one of tfmot's QAT (``stock``) and a ``float`` one.
      config: The recipe.
      num_samples: Training samples of an epoch.
    """
    batch_size = config.multi_bit_schedule.batch_size
    ratio = seconds["plain"] / seconds["stock"]
    yield Bar(
        name=f"a step of multi-bitwidth training over one of tfmot's 8-bit QAT, "
        f"{config.name}, batch of {batch_size}",
        figure=f"{ratio:.2f} ({1e3 * seconds['plain']:.0f} ms, all of the recipe's "
        f"passes {1e3 * seconds['recipe']:.0f}, float {1e3 * seconds['float']:.0f})",
        limit=f"at most {_MAX_RATIO}",
        held=ratio <= _MAX_RATIO,
    )
    num_steps = config.multi_bit_schedule.epochs * -(-num_samples // batch_size)
    shared_minutes = num_steps * seconds["recipe"] / 60.0
    others = _NUM_TARGETS * num_steps * seconds["dedicated"] / 60.0
    yield Bar(
        name=f"minutes for {_NUM_TARGETS} targets: one shared training against as many "
        "dedicated ones of the same length",
        figure=f"{shared_minutes:.0f} against {others:.0f}",
        limit="less",
        held=shared_minutes < others,
    )


def _random_images(number: int, seed: int) -> Data:
    """Returns images of noise; no time depends on what is in an image."""
    rng = np.random.default_rng(seed)
    images = rng.random((number, *_IMAGE_SHAPE), np.float32)
    labels = np.arange(number) % _NUM_CLASSES
    return Data(
        name="random images",
        x_train=images,
        y_train=labels,
        x_test=images,
        y_test=labels,
    )


def training_step(
    model: Any, batch: tuple[Any, Any], randomizer: Any
) -> Callable[[], None]:
    """Returns a function that takes one training step, policy and all."""
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    if randomizer is None:
        return lambda: model.train_on_batch(*batch)

    numbers = iter(range(10**9))

    def step() -> None:
        randomizer.set_model(model)
        randomizer.on_train_batch_begin(next(numbers))
        model.train_on_batch(*batch)

    return step


def interleaved(
    steps: Mapping[str, Callable[[], None]],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Returns the seconds of each step, taken in turns: the lower quartile.

    What else runs on a machine only makes a step longer.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for name in steps:
        for _ in range(_NUM_WARM):
            steps[name]()  # traced and warm
    for _ in range(_NUM_ROUNDS):
        for name, step in steps.items():
            start = clock()
            step()
            times[name].append(clock() - start)
    return {name: statistics.quantiles(one, n=4)[0] for name, one in times.items()}
