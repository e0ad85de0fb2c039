"""CIFAR-10 with ResNet-8 of MLPerf Tiny: 16, 32, 64 channels, 78,666 parameters.

Claim: 2.0 points below float on average over random 8/4/2-bit policies, 0.5 over
random ones of 4..8 bits; below a network for one policy alone by 0.2 points at w8a8 and
w3a3, 0.4 at w2a2, at most 0.3 at four searched ones of 2.3 to 3.2-bit weights; above it
by 0.1 at w6a6 and w4a4.
Price: on two CPU cores with bfloat16 (AVX512_BF16), an epoch of the multi-bitwidth
network, five policies a step, takes 145 s, the statistics after it 5 minutes; in
float32 an epoch of the float network takes about 40 s, one for one policy 45 s.
Data: an .npz with x_train, y_train, x_test, y_test; images as bytes.
Command: matar train --recipe=cifar10_resnet8:bfloat16 --data=cifar10.npz \
  --output=cifar10.matar
Variants: cifar10_resnet8:quick, one epoch of each kind.
Reference: mlcommons/tiny, image classification.
"""

from __future__ import annotations

from dataclasses import replace

from matar_tf.keras import RecipeConfig, Schedule
from recipes.common import CIFAR10_CARD, EVERY_WIDTH
from recipes.models import mlperf_tiny_resnet8


def get_config() -> RecipeConfig:
    """Returns the training run."""
    return RecipeConfig(
        name="cifar10_resnet8",
        data=None,
        build_model=mlperf_tiny_resnet8,
        float_schedule=Schedule(
            epochs=80,
            learning_rate=0.1,
            batch_size=128,
            augment=True,
            optimizer="sgd",
            warmup_epochs=2,
        ),
        multi_bit_schedule=Schedule(
            epochs=16, learning_rate=1e-3, batch_size=128, augment=True
        ),
        method=replace(EVERY_WIDTH, reestimation=4800),
        held_out=2000,
        channels="RGB",
        card=CIFAR10_CARD,
    )
