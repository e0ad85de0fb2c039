"""Handwritten digits (scikit-learn, 8x8) with a network that small chips take.

Claim: one artifact for TI's NPU and MAX78000, which take kernels of 8, 4 or 2 bits with
one step a layer, tensors of 8 bits with a sign, and scales that are powers of two: 98 %
and more of 500 digits at w8a8 to w2a8, within a point of free scales.
Price: about two minutes on two CPU cores.
Command: matar train --recipe=digits_chip:power_of_two --output=chip.matar
Then: matar search --artifact=chip.matar --data=digits --targets=ti_npu,max78000
  --output=runs/chip
Variants: digits_chip, with free scales, to compare with; digits_chip:quick, one epoch
of each kind, to see that it runs.
"""

from __future__ import annotations

from matar_tf.card import ModelCard
from matar_tf.data import DIGITS
from matar_tf.keras import MatarQuantizeConfig, Method, RecipeConfig, Schedule
from recipes.models import digits_chip

_EVERY_LAYER = MatarQuantizeConfig(
    activation_bits=(8,),
    signed=True,  # a ReLU's tensor too: 0 to 127
    per_channel=False,
)


def get_config() -> RecipeConfig:
    """Returns the training run."""
    return RecipeConfig(
        name="digits_chip",
        data=DIGITS,
        build_model=digits_chip,
        float_schedule=Schedule(epochs=20, learning_rate=3e-3, batch_size=32),
        multi_bit_schedule=Schedule(epochs=80, learning_rate=3e-3, batch_size=32),
        # Without batch norms that follow the policy, 2 bits need to see every batch.
        method=Method(sandwich=("narrowest",), update_every_pass=True),
        evaluate_policies=("w8a8", "w4a8", "w2a8"),
        held_out=200,
        channels="grey",
        card=ModelCard(
            description="Tells ten handwritten digits apart.",
            intended_use="Trying chips that shift; nothing else.",
            training_data="scikit-learn's digits (UCI), 1,297 of 1,797 scans",
            preprocessing="8 x 8 pixels of 0..16 divided by 16: 0..1, white on black",
            class_names=tuple("0123456789"),
        ),
        configs={"*": _EVERY_LAYER},
        signed_inputs=True,
    )
