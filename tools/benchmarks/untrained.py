"""The measurements of ``tools/benchmark.py untrained``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from matar_tf import keras as matar
from matar_tf.data import Data, load_data
from matar_tf.policy import Policy
from matar_tf.samplers import BandSampler, IndependentSampler, draw_policies
from matar_tf.tflite.evaluate import PolicyEvaluator
from recipes.common import load_recipe
from tools.benchmarks.bars import Bar

__all__ = ["measure_untrained", "untrained_bars", "untrained_table"]

_MIXED = {
    "2..8": IndependentSampler(),
    "8/4/2": IndependentSampler(bits=(2, 4, 8)),
    "band": BandSampler(),
}
_MAX_BELOW_FLOAT = {"w8a8": 0.5, "w6a6": 1.5}
_MAX_LOSS = 0.3


def measure_untrained(
    recipe: str,
    data_spec: str,
    *,
    float_path: str | None,
    num_samples: int,
    seed: int,
) -> Iterator[Bar]:
    """Prints a table, and yields the bars of a network that was only calibrated.

    Args:
      recipe: Name of the recipe.
      data_spec: Its data, all of whose test samples are evaluated.
      float_path: File of its float network; None to train one.
      num_samples: Training samples, not augmented and without labels.
      seed: Of these samples, of mixed policies and of training.
    """
    config = load_recipe(recipe)
    data = load_data(data_spec)
    network = (
        matar.load_float(float_path, data)
        if float_path
        else matar.train_float(
            config.build_model, data, config.float_schedule, seed=seed
        )
    )
    x, _ = data.training()
    rng = np.random.default_rng(seed)
    size = min(num_samples, len(x))
    samples = x[np.sort(rng.choice(len(x), size, replace=False))]
    model = matar.quantize_model(network, signed_inputs=bool(x.min() < 0))
    matar.calibrate(model, samples)
    space = matar.get_policy_space(model)
    policies = {name: space.named(name) for name in space.uniform_names()}
    for kind, sampler in _MIXED.items():
        (policies[kind],) = draw_policies(space, sampler, 1, seed)
    before = _accuracies(model, policies, data)
    matar.reestimate_batch_norm(model, samples, seed=seed)
    after = _accuracies(model, policies, data)
    scored = network.evaluate(data.x_test, data.y_test, verbose=0, return_dict=True)
    accuracy = 100.0 * scored["accuracy"]
    print(untrained_table(accuracy, before, after), flush=True)
    yield from untrained_bars(accuracy, before, after, space.uniform_names())


def _accuracies(
    model: Any, policies: Mapping[str, Policy], data: Data
) -> dict[str, float]:
    """Returns the accuracy of each policy's integer file in percent."""
    artifact = matar.package(model, include_network=False)
    evaluate = PolicyEvaluator(
        artifact, data.x_test, data.y_test, metrics=("accuracy",)
    )
    return {
        name: 100.0 * evaluate(policy)["accuracy"] for name, policy in policies.items()
    }


def untrained_table(
    accuracy: float, before: Mapping[str, float], after: Mapping[str, float]
) -> str:
    """Returns accuracies in percent, as a table."""
    rows = [f"{'policy':8s} {'calibrated':>10s} {'matched':>8s}"]
    rows += [f"{name:8s} {before[name]:10.2f} {after[name]:8.2f}" for name in before]
    return "\n".join([f"float {accuracy:.2f} %", *rows])


def untrained_bars(
    accuracy: float,
    before: Mapping[str, float],
    after: Mapping[str, float],
    uniform: Sequence[str],
) -> Iterator[Bar]:
    """Yields the bars of accuracies in percent.

    Args:
      accuracy: Of the float network.
      before: Of the calibrated network by policy.
      after: Of the same with statistics estimated anew.
      uniform: Names of uniform policies.
    """
    for name, limit in _MAX_BELOW_FLOAT.items():
        below = accuracy - before[name]
        yield Bar(
            name=f"{name}, calibrated alone, below float",
            figure=f"{below:.2f} points",
            limit=f"at most {limit}",
            held=below <= limit,
        )
    losses = {name: before[name] - after[name] for name in uniform}
    worst = max(losses, key=losses.__getitem__)
    yield Bar(
        name="largest loss of a uniform policy by statistics estimated anew",
        figure=f"{losses[worst]:.2f} points, {worst}",
        limit=f"at most {_MAX_LOSS}",
        held=losses[worst] <= _MAX_LOSS,
    )
