"""The form of a recipe: a training run as data, and its variants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from matar_tf.card import ModelCard
from matar_tf.errors import MatarError
from matar_tf.keras.quantizers.configs import MatarQuantizeConfig
from matar_tf.keras.train.fit_loop import Schedule
from matar_tf.keras.train.method import Method
from matar_tf.scales import FREE, POWER_OF_TWO

__all__ = ["RecipeConfig", "with_variants"]

_DEFAULT_METHOD: Final = Method()
_FEW_BATCHES: Final = 50
_FEW_POLICIES: Final = 20


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
      measured_policies: How many policies are measured after it, so that others can
        search without data; 0 for none.
      held_out: Training samples that are kept out for that, a fifth at most. Without
        some, or where a float network is given, which may have seen all, samples that
        were trained on are measured.
      channels: What the channels of images are, in order.
      card: What those should know who retarget the network, or None.
      scale: Which scales it has; see `quantize_model`.
      configs: What to do with some layers, likewise.
      signed_inputs: Whether the input has levels below 0; None for what samples have.
    """

    name: str
    data: str | None
    build_model: Callable[[tuple[int, ...], int], Any]
    float_schedule: Schedule | None
    multi_bit_schedule: Schedule
    method: Method = _DEFAULT_METHOD
    evaluate_policies: tuple[str, ...] = ("w8a8", "w6a6", "w4a4", "w3a3", "w2a2")
    measured_policies: int = 400
    held_out: int = 0
    channels: str = ""
    card: ModelCard | None = None
    scale: str = FREE
    configs: Mapping[str, MatarQuantizeConfig] = field(
        default_factory=dict[str, MatarQuantizeConfig]
    )
    signed_inputs: bool | None = None


def _quick(config: RecipeConfig) -> RecipeConfig:
    """Returns the smoke run of a recipe: one epoch of each kind, few of all else."""

    def short(schedule: Schedule) -> Schedule:
        return replace(schedule, epochs=1, warmup_epochs=0)

    return replace(
        config,
        float_schedule=config.float_schedule and short(config.float_schedule),
        multi_bit_schedule=short(config.multi_bit_schedule),
        method=replace(
            config.method, reestimation=min(config.method.reestimation, _FEW_BATCHES)
        ),
        measured_policies=min(config.measured_policies, _FEW_POLICIES),
    )


def _from_scratch(config: RecipeConfig) -> RecipeConfig:
    """Returns the multi-bitwidth training of a recipe alone: labels teach, no network.

    It begins with random weights; the rest is as after a float training.
    """
    method = replace(config.method, distillation=0.0)
    return replace(config, float_schedule=None, method=method)


def _in_bfloat16(config: RecipeConfig) -> RecipeConfig:
    """Returns the same training with products in bfloat16; see `Schedule`."""
    return replace(
        config,
        float_schedule=config.float_schedule
        and replace(config.float_schedule, bfloat16=True),
        multi_bit_schedule=replace(config.multi_bit_schedule, bfloat16=True),
    )


def _in_powers_of_two(config: RecipeConfig) -> RecipeConfig:
    """Returns the same training with scales that hardware shifts by."""
    return replace(config, scale=POWER_OF_TWO)


_VARIANTS: Final = {
    "quick": _quick,
    "scratch": _from_scratch,
    "bfloat16": _in_bfloat16,
    "power_of_two": _in_powers_of_two,
}


def with_variants(config: RecipeConfig, variants: Sequence[str]) -> RecipeConfig:
    """Returns variants of a recipe, which then stand in its name.

    Args:
      config: The recipe.
      variants: Among ``quick``, ``scratch``, ``bfloat16`` and ``power_of_two``.

    Raises:
      MatarError: If there is no such variant, or one is named twice.
    """
    if len(set(variants)) < len(variants) or not set(variants) <= set(_VARIANTS):
        raise MatarError(
            f"Expected variants of the recipe {config.name!r} among "
            f"{', '.join(_VARIANTS)}, each at most once, got {':'.join(variants)!r}."
        )
    name = ":".join([config.name, *variants])
    for variant in variants:
        config = _VARIANTS[variant](config)
    return replace(config, name=name)
