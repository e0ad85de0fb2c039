"""What every recipe shares: the form of a config, and finding a recipe by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matar_tf.errors import MatarError, did_you_mean
from matar_tf.keras import Method, Schedule

__all__ = ["RecipeConfig", "list_recipes", "load_recipe", "quick"]

_DEFAULT_METHOD = Method()


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """A training run: everything but the data and the seed.

    Attributes:
      name: Name of the recipe, with its variant.
      data: Default for ``--data``, or None where the user must name it.
      build_model: Function of ``(input_shape, num_classes)`` that returns a float
        tf_keras model with logits as output.
      float_schedule: Training of the float network.
      multi_bit_schedule: Training of the multi-bitwidth network.
      method: What the multi-bitwidth training does beside that.
      evaluate_policies: Names of the uniform policies that go on record.
    """

    name: str
    data: str | None
    build_model: Callable[[tuple[int, ...], int], Any]
    float_schedule: Schedule
    multi_bit_schedule: Schedule
    method: Method = _DEFAULT_METHOD
    evaluate_policies: tuple[str, ...] = ("w8a8", "w6a6", "w4a4", "w3a3", "w2a2")


def quick(config: RecipeConfig) -> RecipeConfig:
    """Returns the smoke run of a recipe: one epoch of each kind."""
    return replace(
        config,
        float_schedule=replace(config.float_schedule, epochs=1, warmup_epochs=0),
        multi_bit_schedule=replace(
            config.multi_bit_schedule, epochs=1, warmup_epochs=0
        ),
    )


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
    """Returns the config of ``name`` or ``name:variant``.

    Raises:
      MatarError: If there is no such recipe or variant.
    """
    name, colon, variant = spec.partition(":")
    if name not in list_recipes():
        raise MatarError(
            f"Expected the name of a recipe, got {name!r}. "
            f"{did_you_mean(name, list_recipes())}"
        )
    config: RecipeConfig = importlib.import_module(f"recipes.{name}").get_config()
    if not colon:
        return config
    if variant != "quick":
        raise MatarError(
            f"Expected the variant 'quick' of the recipe {name!r}, got {variant!r}."
        )
    return quick(replace(config, name=spec))
