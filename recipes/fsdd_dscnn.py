"""Spoken digits (FSDD) with DS-CNN of MLPerf Tiny: depthwise layers at few bits.

Claim: of w8a8, w6a6, w4a4, w3a3, w2a2 and 300 random policies of 2..8 bits none lies
below float (98.7 %, 300 samples), w2a2 at 99.0 %; networks for one policy alone reach
97.3 to 99.7 %.
Price: on two CPU cores, an epoch of the float network takes three seconds, one of the
multi-bitwidth network, five policies a step, ten.
Data: cepstral coefficients, made from the recordings by
  python tools/benchmarks/speech_features.py --audio=fsdd.npz --output=spoken_digits.npz
Command: matar train --recipe=fsdd_dscnn --data=spoken_digits.npz \
  --output=fsdd.matar
Variants: fsdd_dscnn:quick, one epoch of each kind.
Reference: Free Spoken Digit Dataset, 3,000 recordings; takes 0 to 4 of each speaker
and digit are the test set.
"""

from __future__ import annotations

from matar_tf.card import ModelCard
from matar_tf.keras import RecipeConfig, Schedule
from recipes.common import EVERY_WIDTH
from recipes.models import mlperf_tiny_dscnn


def get_config() -> RecipeConfig:
    """Returns the training run."""
    return RecipeConfig(
        name="fsdd_dscnn",
        data=None,
        build_model=mlperf_tiny_dscnn,
        float_schedule=Schedule(epochs=30, learning_rate=2e-3, batch_size=64),
        multi_bit_schedule=Schedule(epochs=40, learning_rate=2e-3, batch_size=64),
        method=EVERY_WIDTH,
        held_out=270,
        card=ModelCard(
            description="Tells ten spoken English digits apart.",
            training_data="Free Spoken Digit Dataset, takes 5 to 49 of six speakers",
            preprocessing="49 frames of 10 cepstral coefficients at 8 kHz, as "
            "tools/benchmarks/speech_features.py of the project's source makes them",
            class_names=tuple("0123456789"),
        ),
    )
