"""CIFAR-10 with ResNet-20 of He et al.: 16, 32, 64 channels, 274,826 parameters.

Claim: the float network reaches 91.54 % in bfloat16
(recipes/artifacts/cifar10_resnet20_float.h5). The multi-bitwidth network
(recipes/artifacts/cifar10_resnet20.matar) is as good at 8, 6 and 4 bits and over random
policies of 4..8 bits; it loses 1.4 points on average over random 8/4/2-bit ones, 1.0
at w3a3, 3.8 at w2a2. Against networks for one policy alone it is 0.2 points worse at
w8a8 and 0.4 at one of two searched policies, equal at 6 and 4 bits, and better by 0.3
at w3a3 and the other searched one, and by 0.8 at w2a2.
Price: on two CPU cores with bfloat16 (AVX512_BF16), an epoch of the float network takes
57 to 70 s, one of the multi-bitwidth network, three policies a step, 280 s, the
statistics after it 7 minutes.
Data: an .npz with x_train, y_train, x_test, y_test; images as bytes.
Command: matar train --recipe=cifar10_resnet20:bfloat16 --data=cifar10.npz \
  --output=resnet20.matar
Variants: cifar10_resnet20:quick, one epoch of each kind.
"""

from __future__ import annotations

from dataclasses import replace

from matar_tf.keras import RecipeConfig, Schedule
from recipes.common import CIFAR10_CARD, FEW_PASSES
from recipes.models import cifar_resnet20


def get_config() -> RecipeConfig:
    """Returns the training run."""
    return RecipeConfig(
        name="cifar10_resnet20",
        data=None,
        build_model=cifar_resnet20,
        float_schedule=Schedule(
            epochs=80,
            learning_rate=0.1,
            batch_size=128,
            augment=True,
            optimizer="sgd",
            warmup_epochs=2,
        ),
        multi_bit_schedule=Schedule(
            epochs=10, learning_rate=5e-4, batch_size=128, augment=True
        ),
        method=replace(FEW_PASSES, reestimation=2400),
        held_out=2000,
        channels="RGB",
        card=CIFAR10_CARD,
    )
