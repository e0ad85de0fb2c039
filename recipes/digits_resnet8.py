"""Handwritten digits (scikit-learn, 8x8) with a small residual network.

Claim: 98 % and more of 500 digits at w8a8 to w2a2, within a point of the float network.
Price: about two minutes on two CPU cores.
Command: matar train --recipe=digits_resnet8 --output=digits.matar
Variants: digits_resnet8:quick, one epoch of each kind, to see that it runs.
"""

from __future__ import annotations

from matar_tf.card import ModelCard
from matar_tf.data import DIGITS
from matar_tf.keras import RecipeConfig, Schedule
from recipes.models import digits_resnet


def get_config() -> RecipeConfig:
    """Returns the training run."""
    return RecipeConfig(
        name="digits_resnet8",
        data=DIGITS,
        build_model=digits_resnet,
        # No augment: a mirrored or shifted 8x8 digit is often another digit.
        float_schedule=Schedule(epochs=20, learning_rate=3e-3, batch_size=32),
        multi_bit_schedule=Schedule(epochs=80, learning_rate=3e-3, batch_size=32),
        held_out=200,
        channels="grey",
        card=ModelCard(
            description="Tells ten handwritten digits apart.",
            intended_use="Trying matar_tf; nothing else.",
            training_data="scikit-learn's digits (UCI), 1,297 of 1,797 scans",
            preprocessing="8 x 8 pixels of 0..16 divided by 16: 0..1, white on black",
            class_names=tuple("0123456789"),
        ),
    )
