"""Batch norms matched to the float network, on a network that was only calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from matar_tf.keras import (
    calibrate,
    get_policy,
    get_policy_space,
    keras,
    quantize_model,
    reestimate_batch_norm,
    set_policy,
)
from matar_tf.keras._compat import tf
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.train.matching import matched
from matar_tf.keras.train.terms import centred, fit_terms, flat
from matar_tf.policy import Policy
from matar_tf.samplers import IndependentSampler, draw_policies, spread_policies
from matar_tf.space import PolicySpace

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 8, 8, 3)).astype(np.float32)
OTHERS = 0.5 * RNG.normal(size=(128, 8, 8, 3)).astype(np.float32) + 0.3


def network() -> Any:
    """A float network whose batch norms hold the statistics of `X`."""
    keras.utils.set_random_seed(1)
    inputs = L.Input((8, 8, 3), name="image")
    x = inputs
    for number in range(3):
        x = L.Conv2D(8, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        norm = L.BatchNormalization(momentum=0.0, name=f"norm{number}")
        x = L.ReLU(name=f"relu{number}")(norm(x))
    model = keras.Model(inputs, L.Dense(4, name="last")(L.Flatten()(x)))
    model(X, training=True)
    return model


def quantized(space: PolicySpace | None = None) -> Any:
    model = quantize_model(network(), space)
    calibrate(model, X)
    return model


def errors(model: Any, names: Sequence[str]) -> list[float]:
    """Squared differences from the float network's outputs on `X`, over their variance."""
    expected = network().predict(X, verbose=0)
    found = []
    for name in names:
        set_policy(model, name)
        missed = model.predict(X, batch_size=256, verbose=0) - expected
        found.append(
            float(
                (missed**2).sum() / (expected - expected.mean(0)).var() / X.shape[0] / 4
            )
        )
    return found


def policies_of(model: Any) -> tuple[Policy, ...]:
    return spread_policies(get_policy_space(model), 98, 0)


def bank(model: Any) -> list[np.ndarray]:
    norms = [wrapper.inner_layer(one) for one in model.layers]
    return [
        bank.numpy()
        for norm in norms
        if hasattr(norm, "moving_mean")
        for bank in (norm.moving_mean, norm.moving_variance)
    ]


def test_explore() -> None:
    names = ("w8a8", "w6a6", "w4a4", "w3a3", "w2a2")
    for method in ("statistics", "match"):
        model = quantized()
        print(method, errors(model, names))
        print(
            reestimate_batch_norm(
                model, OTHERS, policies=policies_of(model), method=method
            )
        )
        print(errors(model, names))
    import time

    for n in (32, 8, 4):
        for seed in range(2):
            model = quantized()
            t = time.time()
            try:
                r = reestimate_batch_norm(
                    model, OTHERS[:n], policies=policies_of(model), seed=seed
                )
            except UserWarning as w:
                r = str(w)
            print(n, seed, time.time() - t, r, errors(model, names))
