"""What every recipe shares: the form of a config, and finding a recipe by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matar_tf.errors import MatarError, did_you_mean
from matar_tf.keras import Method, Schedule
from matar_tf.samplers import (
    BandSampler,
    IndependentSampler,
    MixtureSampler,
    UniformSampler,
)

__all__ = [
    "EVERY_WIDTH",
    "FEW_PASSES",
    "RecipeConfig",
    "from_scratch",
    "in_bfloat16",
    "list_recipes",
    "load_recipe",
    "quick",
]

_DEFAULT_METHOD = Method()
_FEW_BATCHES = 50


def _mixture(*uniform: str) -> MixtureSampler:
    """Returns a sampler of uniform policies, of 8/4/2 mixes and of bands."""
    return MixtureSampler(
        samplers=(
            UniformSampler(names=uniform),
            IndependentSampler(bits=(2, 4, 8)),
            BandSampler(),
        ),
        probs=(0.35, 0.2, 0.45),
    )


# Every step sees 3 and 2 bits, each of which is learned from its own batches alone, and
# three drawn policies: what is wide, and mixes of every average width.
EVERY_WIDTH = Method(
    sandwich=("w3a3", "narrowest"),
    draws=3,
    update_every_pass=True,
    sampler=_mixture("w8a8", "w6a6", "w5a5", "w4a4"),
)
# Three passes in the place of five, a third of them at 2 bits: for slower networks.
FEW_PASSES = replace(
    EVERY_WIDTH,
    sandwich=("narrowest",),
    draws=2,
    sampler=_mixture("w8a8", "w6a6", "w5a5", "w4a4", "w3a3"),
)


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """A training run: everything but the data and the seed.

    Attributes:
      name: Name of the recipe, with its variant.
      data: Default for ``--data``, or None where the user must name it.
      build_model: Function of ``(input_shape, num_classes)`` that returns a float
        tf_keras model with logits as output.
      float_schedule: Training of the float network; None to start from scratch.
      multi_bit_schedule: Training of the multi-bitwidth network.
      method: What the multi-bitwidth training does beside that.
      evaluate_policies: Names of the uniform policies that go on record.
    """

    name: str
    data: str | None
    build_model: Callable[[tuple[int, ...], int], Any]
    float_schedule: Schedule | None
    multi_bit_schedule: Schedule
    method: Method = _DEFAULT_METHOD
    evaluate_policies: tuple[str, ...] = ("w8a8", "w6a6", "w4a4", "w3a3", "w2a2")


def quick(config: RecipeConfig) -> RecipeConfig:
    """Returns the smoke run of a recipe: one epoch of each kind, few statistics."""

    def short(schedule: Schedule) -> Schedule:
        return replace(schedule, epochs=1, warmup_epochs=0)

    return replace(
        config,
        float_schedule=config.float_schedule and short(config.float_schedule),
        multi_bit_schedule=short(config.multi_bit_schedule),
        method=replace(
            config.method, reestimation=min(config.method.reestimation, _FEW_BATCHES)
        ),
    )


def from_scratch(config: RecipeConfig) -> RecipeConfig:
    """Returns the multi-bitwidth training of a recipe alone: labels teach, no network.

    It begins with random weights; the rest is as after a float training.
    """
    method = replace(config.method, distillation=0.0)
    return replace(config, float_schedule=None, method=method)


def in_bfloat16(config: RecipeConfig) -> RecipeConfig:
    """Returns the same training with products in bfloat16; see `Schedule`."""
    return replace(
        config,
        float_schedule=config.float_schedule
        and replace(config.float_schedule, bfloat16=True),
        multi_bit_schedule=replace(config.multi_bit_schedule, bfloat16=True),
    )


_VARIANTS = {"quick": quick, "scratch": from_scratch, "bfloat16": in_bfloat16}


def list_recipes() -> tuple[str, ...]:
    """Returns the names of all recipes."""
    return tuple(
        sorted(
            path.stem
            for path in Path(__file__).parent.glob("*.py")
            if path.stem not in ("__init__", "common", "models")
        )
    )


def load_recipe(spec: str) -> RecipeConfig:
    """Returns the config of a recipe, ``name`` or ``name:variant[:variant]``.

    Raises:
      MatarError: If there is no such recipe or variant, or one is named twice.
    """
    name, *variants = spec.split(":")
    if name not in list_recipes():
        raise MatarError(
            f"Expected the name of a recipe, got {name!r}. "
            f"{did_you_mean(name, list_recipes())}"
        )
    if len(set(variants)) < len(variants) or not set(variants) <= set(_VARIANTS):
        raise MatarError(
            f"Expected variants of the recipe {name!r} among {', '.join(_VARIANTS)}, "
            f"each at most once, got {':'.join(variants)!r}."
        )
    config: RecipeConfig = importlib.import_module(f"recipes.{name}").get_config()
    for variant in variants:
        config = _VARIANTS[variant](config)
    return replace(config, name=spec)
