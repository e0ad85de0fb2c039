"""A training that diverges ends at once, with what to do, and saves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.nets import L

from matar_tf.data import Data
from matar_tf.errors import ModelError
from matar_tf.keras import keras
from matar_tf.keras._compat import tf
from matar_tf.keras.train.divergence import EndsDiverged
from matar_tf.keras.train.fit_loop import Schedule
from matar_tf.keras.train.train import Method, train_multi_bit


def net() -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    return keras.Model(inputs, L.Dense(3)(L.Dense(8, "relu")(inputs)))


def test_it_says_where_and_what_to_do(eager: None, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    y = np.arange(32) % 3
    data = Data(name="noise", x_test=x, y_test=y, x_train=x, y_train=y)
    schedule = Schedule(epochs=9, learning_rate=1e30, batch_size=8, optimizer="sgd")
    method = Method(distillation=0.0)
    with pytest.raises(ModelError) as caught:
        train_multi_bit(net(), data, schedule, method, folder=tmp_path)
    for part in ("epoch 1 at step 2", "rate of 9.98e+29", "a smaller learning_rate"):
        assert part in str(caught.value)
    assert not list(tmp_path.glob("*.index"))


def test_what_tensorflow_raises_of_it_is_said_likewise() -> None:
    model = net()
    model.compile(keras.optimizers.SGD(0.5), "mse")
    watch = EndsDiverged()
    watch.set_model(model)
    error = tf.errors.InvalidArgumentError(None, None, "Invalid range: input_min nan")
    with pytest.raises(tf.errors.InvalidArgumentError), watch.watching():
        raise error
    watch.on_epoch_end(0)
    model.layers[1].kernel.assign(np.full((4, 8), np.nan, np.float32))
    with pytest.raises(ModelError, match=r"rate of 0\.5"), watch.watching():
        raise error
    with pytest.raises(ModelError, match="finite weights"):
        watch.on_epoch_end(0)
