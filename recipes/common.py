"""What recipes share: the methods of training, and finding a recipe by name."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

from matar_tf.card import ModelCard
from matar_tf.errors import MatarError, did_you_mean
from matar_tf.keras import Method, RecipeConfig, with_variants
from matar_tf.samplers import (
    BandSampler,
    IndependentSampler,
    MixtureSampler,
    UniformSampler,
)

__all__ = [
    "CIFAR10_CARD",
    "EVERY_WIDTH",
    "FEW_PASSES",
    "list_recipes",
    "load_recipe",
]


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


CIFAR10_CARD = ModelCard(
    description="Tells ten kinds of things apart in photographs of 32 x 32 pixels.",
    intended_use="Comparing methods of quantization; not for decisions of any kind.",
    training_data="CIFAR-10 (Krizhevsky, 2009), of its 50,000 training images",
    preprocessing="bytes divided by 255: 0..1; no mean is subtracted; NHWC, RGB",
    class_names=(
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
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
    config: RecipeConfig = importlib.import_module(f"recipes.{name}").get_config()
    return with_variants(config, variants)
