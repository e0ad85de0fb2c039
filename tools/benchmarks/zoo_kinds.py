"""The measurements of ``tools/benchmark.py zoo_kinds``: each kind of layer, trained.

A small network of digits with layers of the kind in its middle is trained in float,
then for an epoch under random policies; its files then answer as Keras does, or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from matar_tf import keras as matar
from matar_tf.data import Data, load_data
from matar_tf.errors import MatarError
from matar_tf.keras import keras
from matar_tf.keras._compat import tf
from matar_tf.samplers import draw_policies
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner
from tools.benchmarks.bars import Bar

__all__ = ["BLOCKS", "measure_zoo_kinds"]

_L: Final = keras.layers
_FLOAT_EPOCHS, _EPOCHS, _BATCH = 12, 1, 32
_NUM_CALIBRATION: Final = 256
_NOISE: Final = 1e-9  # of a difference of shares
_LEAST_SAME: Final = 0.995
_RATE: Final = 1e-4  # a tenth of that in float, as networks are tuned
_MOST_LOST: Final = 0.01  # of accuracy, w8a8 below float


def _conv(**arguments: Any) -> Any:
    return _L.Conv2D(12, 3, padding="same", **arguments)


def _gated(x: Any) -> Any:
    gate = _L.Dense(12, activation="hard_sigmoid")(_L.GlobalAveragePooling2D()(x))
    return _L.Multiply()([x, _L.Reshape((1, 1, 12))(gate)])


def _rows(x: Any) -> Any:
    """What sequences have: the rows of an image, one after the other."""
    x = _L.Reshape((8, 96))(x)
    x = _L.Conv1D(12, 3, padding="causal", dilation_rate=2, activation="relu")(x)
    x = _L.Cropping1D(1)(_L.UpSampling1D(2)(_L.BatchNormalization()(x)))
    return _L.Reshape((7, 2, 12))(x)


def _moved(x: Any) -> Any:
    x = _L.Permute((2, 1, 3))(_L.Cropping2D(1)(x))
    return _L.Concatenate(axis=1)([x, _L.ZeroPadding2D(((0, 0), (0, 0)))(x)])


def _augmented(x: Any) -> Any:
    return _L.GaussianNoise(0.1)(_L.RandomTranslation(0.05, 0.05)(x))


BLOCKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "batch norm after a ReLU": lambda x: _L.BatchNormalization()(_L.ReLU()(x)),
    "batch norm before a convolution": lambda x: _conv()(
        _L.ReLU()(_L.BatchNormalization()(x))
    ),
    "LeakyReLU": lambda x: _L.LeakyReLU(0.2)(x),
    "PReLU": lambda x: _L.PReLU(shared_axes=[1, 2])(x),
    "ELU": lambda x: _L.ELU()(x),
    "SELU": lambda x: _L.Activation("selu")(x),
    "GELU": lambda x: _L.Activation("gelu")(x),
    "swish": lambda x: _L.Activation("swish")(x),
    "hard-swish as operators": lambda x: x * (tf.nn.relu6(x + 3.0) / 6.0),
    "exponential": lambda x: _L.Activation("exponential")(x * 0.25),
    "squeeze and excite": _gated,
    "Subtract": lambda x: _L.Subtract()([x, _conv(activation="relu")(x)]),
    "Maximum, Minimum": lambda x: _L.Minimum()(
        [_L.Maximum()([x, _conv()(x)]), _conv()(x)]
    ),
    "Average": lambda x: _L.Average()([x, _conv()(x), _conv()(x)]),
    "Conv2DTranspose": lambda x: _L.Conv2DTranspose(8, 3, 2, activation="relu")(x),
    "UpSampling2D, nearest": lambda x: _conv()(_L.UpSampling2D()(_L.ReLU()(x))),
    "UpSampling2D, bilinear": lambda x: _conv()(
        _L.UpSampling2D(interpolation="bilinear")(_L.ReLU()(x))
    ),
    "grouped, dilated": lambda x: _L.DepthwiseConv2D(
        3, dilation_rate=2, activation="relu"
    )(_L.Conv2D(12, 3, padding="same", groups=3, activation="relu")(x)),
    "sequences, causal": _rows,
    "shapes": _moved,
    "Rescaling, Normalization": lambda x: _L.Normalization(mean=0.1, variance=0.5)(
        _L.Rescaling(0.5, 0.1)(_L.ReLU()(x))
    ),
    "augmentation": _augmented,
}


def measure_zoo_kinds(*, seed: int) -> Iterator[Bar]:
    """Yields the bars of a network of each kind.

    Args:
      seed: Of weights, policies and the order of samples.
    """
    data = load_data("digits")
    for name, block in BLOCKS.items():
        yield from _measure(name, block, data, seed)


def _measure(
    name: str, block: Callable[[Any], Any], data: Data, seed: int
) -> Iterator[Bar]:
    if data.x_train is None or data.y_train is None:
        raise MatarError("Expected digits to train on, got none.")
    keras.utils.set_random_seed(seed)
    network = _build(block, data.x_test.shape[1:])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss)
    fitted = {"batch_size": _BATCH, "verbose": 0}
    network.fit(data.x_train, data.y_train, epochs=_FLOAT_EPOCHS, **fitted)
    model = matar.quantize_model(network, signed_inputs=False)
    matar.calibrate(model, data.x_train[:_NUM_CALIBRATION])
    model.compile(keras.optimizers.Adam(_RATE), loss)
    randomizer = matar.PolicyRandomizer(seed=seed)
    model.fit(
        data.x_train, data.y_train, epochs=_EPOCHS, callbacks=[randomizer], **fitted
    )
    if any("moving_mean" in one.name for one in model.weights):
        matar.reestimate_batch_norm(model, data.x_train, method="statistics")
    artifact = matar.package(model, include_network=False)
    space, builder = artifact.space, ModelBuilder(artifact)
    (mixed,) = draw_policies(space, matar.IndependentSampler(), 1, seed)
    policies = {"w8a8": space.named("w8a8"), "w4a4": space.named("w4a4")}
    shares: dict[str, float] = {}
    classes: dict[str, np.ndarray] = {}
    for policy_name, policy in {**policies, "mixed": mixed}.items():
        matar.set_policy(model, policy)
        expected = model.predict(data.x_test, verbose=0).argmax(-1)
        classes[policy_name] = (
            Runner(builder.build(policy)).predict(data.x_test).argmax(-1)
        )
        shares[policy_name] = float(np.mean(classes[policy_name] == expected))
    yield Bar(
        name=f"{name}: same class as Keras, w8a8, w4a4, mixed",
        figure=", ".join(f"{100 * share:.2f} %" for share in shares.values()),
        limit=f"at least {100 * _LEAST_SAME:g} %",
        held=min(shares.values()) >= _LEAST_SAME,
    )
    labels = data.y_test
    in_float = np.mean(network.predict(data.x_test, verbose=0).argmax(-1) == labels)
    in_bits = np.mean(classes["w8a8"] == labels)
    yield Bar(
        name=f"{name}: accuracy of w8a8 beside float, {100 * in_float:.2f} %",
        figure=f"{100 * in_bits:.2f} %",
        limit=f"at most {100 * _MOST_LOST:g} below",
        held=bool(in_float - in_bits <= _MOST_LOST + _NOISE),
    )


def _build(block: Callable[[Any], Any], shape: tuple[int, ...]) -> Any:
    inputs = _L.Input(shape)
    x = block(_conv()(inputs))
    x = _L.Flatten()(_L.MaxPooling2D(2)(_conv(activation="relu")(x)))
    return keras.Model(inputs, _L.Dense(10)(x))
