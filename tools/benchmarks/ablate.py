"""What each part of the training method adds: one short training per variant.

Every variant starts from the same float network and sees the same number of policies:
where a step shows three, by a sandwich or by draws, it has a third of the epochs. Batch
norm statistics are estimated from 400 batches, if the recipe takes more. A variant
that is the recipe's default is left out, unless it is named. Prints accuracies of the
Keras model on the evaluation samples, in percent.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given
from matar_tf.commands._program import main_of
from matar_tf.commands._training import float_network, load_recipe, training_data

if TYPE_CHECKING:
    from absl.flags import FlagValues

    from matar_tf.data import Data
    from matar_tf.keras import Method
    from matar_tf.policy import Policy

_NUM_RANDOM = 20
_REESTIMATION = 400  # more would outlast so short a training
# Double Rounding, arXiv 2502.01199, section 4.
_SLOW_STEPS = ((7, 0.5), (6, 0.1), (5, 0.05), (4, 0.01), (3, 0.005), (2, 0.001))
_UNIFORM = ("w8a8", "w4a4", "w3a3", "w2a2")
# Of the schedule, where a variant changes that and not the method.
_SCHEDULE_CHANGES = {"averaged weights": {"ema": 0.999}}


def _define(values: FlagValues) -> None:
    _flags.recipe(values, "digits_resnet8")
    _flags.data(
        values,
        "Data to train and to evaluate on",
        otherwise="; default the recipe's",
    )
    flags.DEFINE_integer(
        "epochs", 12, "Of each variant.", lower_bound=3, flag_values=values
    )
    _flags.seed(values, "everything random")
    _flags.float_network(values)
    flags.DEFINE_list(
        "variants", [], "Names of variants; default all.", flag_values=values
    )


def variants(default: Method, epochs: int) -> dict[str, Method]:
    """Returns the methods that are compared, by name; each changes one part.

    Args:
      default: The method of the recipe.
      epochs: Of a variant whose steps show one policy.
    """
    from matar_tf.samplers import IndependentSampler, MixtureSampler, UniformSampler

    independent = IndependentSampler()
    mixed = MixtureSampler(
        samplers=(UniformSampler(mixed=True), independent), probs=(0.5, 0.5)
    )
    ends = ("widest", "narrowest")
    curriculum = {
        0: UniformSampler(),
        max(1, _num_epochs(default, epochs) // 3): default.sampler,
    }
    plain = replace(
        default, distillation=0.0, norm_context=0, reestimation=0, sandwich=(), draws=1
    )
    return {
        "default": default,
        "none of the parts": replace(plain, sampler=independent),
        "no soft labels": replace(default, distillation=0.0),
        "soft labels only": replace(default, distillation=1.0),
        "softer labels": replace(default, temperature=4.0),
        "moving statistics": replace(default, reestimation=0),
        "statistics per weight bits": replace(default, norm_context=0),
        "statistics per weight and input bits": replace(default, norm_context=1),
        "independent sampler": replace(default, sampler=independent),
        "uniform of all pairs": replace(default, sampler=mixed),
        "any widths for bands": replace(default, sampler=_without_bands(default)),
        "curriculum": replace(default, sampler=curriculum),
        "one policy a step": replace(default, sandwich=(), draws=1),
        "an update a step": replace(default, update_every_pass=False),
        "an update a pass": replace(default, update_every_pass=True),
        "sandwich": replace(default, sandwich=ends),
        "sandwich of three": replace(default, sandwich=("w8a8", "w4a4", "w2a2")),
        "sandwich, widest teaches": replace(default, sandwich=ends, teacher="sandwich"),
        "slow steps of narrow widths": replace(default, step_rates=_SLOW_STEPS),
        "kurtosis": replace(default, kurtosis=0.015),
        **dict.fromkeys(_SCHEDULE_CHANGES, default),
    }


def _without_bands(method: Method) -> Any:
    """Returns a method's mixture, with draws from all widths in the place of bands."""
    from matar_tf.samplers import BandSampler, IndependentSampler, MixtureSampler

    if not isinstance(method.sampler, MixtureSampler):
        return method.sampler
    samplers = [
        IndependentSampler() if isinstance(one, BandSampler) else one
        for one in method.sampler.samplers
    ]
    return replace(method.sampler, samplers=tuple(samplers))


def _num_epochs(method: Method, epochs: int) -> int:
    """Returns the epochs in which a method sees as many policies as all others."""
    return max(1, epochs // (method.draws + len(method.sandwich)))


def _families() -> dict[str, Any]:
    """Returns the samplers of the random policies that are measured, by name."""
    from matar_tf.samplers import BandSampler, IndependentSampler

    return {"8/4/2": IndependentSampler(bits=(2, 4, 8)), "bands": BandSampler()}


def _run(given: Given) -> int:
    """Trains every variant; prints a line for each as it is done."""
    from matar_tf.errors import MatarError, did_you_mean

    config = load_recipe(given.recipe)
    default = replace(
        config.method, reestimation=min(config.method.reestimation, _REESTIMATION)
    )
    chosen = variants(default, given.epochs)
    for name in given.variants:
        if name not in chosen:
            raise MatarError(
                f"Expected the name of a variant, got {name!r}. "
                f"{did_you_mean(name, chosen)}"
            )
    data = training_data(config, given.data)
    network = float_network(given.float, config, data, seed=given.seed)
    families = "".join(f"{name:>9s} mean, worst" for name in _families())
    print(f"{'variant':36s} {'  '.join(_UNIFORM)}{families}   minutes")
    distinct = [
        name
        for name, method in chosen.items()
        if method != default or name in ("default", *_SCHEDULE_CHANGES)
    ]
    for name in given.variants or distinct:
        print(_line(name, network, data, config, chosen[name], given), flush=True)
    return 0


def _line(
    name: str, network: Any, data: Data, config: Any, method: Method, given: Given
) -> str:
    from matar_tf.keras import get_policy_space, policy_space, train_multi_bit
    from matar_tf.samplers import draw_policies

    schedule = replace(
        config.multi_bit_schedule,
        epochs=_num_epochs(method, given.epochs),
        warmup_epochs=0,
        **_SCHEDULE_CHANGES.get(name, {}),
    )
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        model = train_multi_bit(
            *(network, data, schedule, method),
            space=policy_space(network, configs=config.configs, scale=config.scale),
            configs=config.configs,
            signed_inputs=config.signed_inputs,
            seed=given.seed,
        )
    minutes = (time.perf_counter() - start) / 60.0
    space = get_policy_space(model)
    uniform = [_accuracy(model, space.named(one), data) for one in _UNIFORM]
    shown = "  ".join(f"{value:4.1f}" for value in uniform)
    for sampler in _families().values():
        random = [
            _accuracy(model, policy, data)
            for policy in draw_policies(space, sampler, _NUM_RANDOM, given.seed)
        ]
        shown += f"{statistics.mean(random):14.1f}, {min(random):5.1f}"
    return f"{name:36s} {shown}   {minutes:7.1f}"


def _accuracy(model: Any, policy: Policy, data: Data) -> float:
    from matar_tf.keras import set_policy

    set_policy(model, policy)
    measured = model.evaluate(
        data.x_test, data.y_test, batch_size=512, verbose=0, return_dict=True
    )
    return 100.0 * measured["accuracy"]


COMMAND: Final = Command(text=__doc__, define=_define, run=_run)

if __name__ == "__main__":
    main_of(COMMAND, "tools/benchmarks/ablate.py")
