"""Spoken digits (FSDD) with DS-CNN of MLPerf Tiny: depthwise layers at few bits.

Price: about five seconds an epoch, float or multi-bitwidth ten, on two CPU cores.
Data: cepstral coefficients, made from the recordings by
  python tools/speech_features.py --audio=fsdd.npz --output=spoken_digits.npz
Command: python tools/train.py --recipe=fsdd_dscnn --data=spoken_digits.npz \
  --output=runs/fsdd
Variants: fsdd_dscnn:quick, one epoch of each kind.
Reference: Free Spoken Digit Dataset, 3,000 recordings; takes 0 to 4 of each speaker
and digit are the test set.
"""

from __future__ import annotations

from matar_tf.keras import Schedule
from recipes.common import EVERY_WIDTH, RecipeConfig
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
    )
