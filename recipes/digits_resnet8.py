"""Handwritten digits (scikit-learn, 8x8) with a small residual network.

Claim: 98 % and more of 500 digits at w8a8 to w2a2, within a point of the float network.
Price: about two minutes on two CPU cores.
Command: matar train --recipe=digits_resnet8 --output=digits.matar
Variants: digits_resnet8:quick, one epoch of each kind, to see that it runs.
"""

from __future__ import annotations

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
    )
