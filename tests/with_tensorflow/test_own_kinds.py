"""Layer classes of a user's own: registered, quantized, saved, loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import matar_tf
from matar_tf import layer_kinds
from matar_tf.errors import MatarWarning, ModelError
from matar_tf.keras import keras, load_model, quantize_model
from matar_tf.keras._compat import tf
from matar_tf.keras.quantizers import own_kinds
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner

L = keras.layers
SAMPLES = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)


class Gated(L.Layer):
    """A kernel, and a gate that is none."""

    def build(self, input_shape: Any) -> None:
        self.w = self.add_weight("w", (input_shape[-1], 8))
        self.gate = self.add_weight("gate", (8,), initializer="ones")

    def call(self, inputs: Any) -> Any:
        return tf.matmul(inputs, self.w) * tf.sigmoid(self.gate)


class Normed(L.Layer):
    """A kernel that is normalised, as of nothing but itself."""

    def build(self, input_shape: Any) -> None:
        self.w = self.add_weight("w", (input_shape[-1], 8))

    def call(self, inputs: Any) -> Any:
        return tf.matmul(inputs, tf.math.l2_normalize(self.w, 0))


class Unread(Normed):
    def call(self, inputs: Any) -> Any:
        return inputs * 2.0


class Linear(L.Layer):
    """A dense layer under other names."""

    def __init__(self, units: int, factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.factor = units, factor
        self.activation = keras.activations.relu

    def build(self, input_shape: Any) -> None:
        self.w = self.add_weight("w", (input_shape[-1], self.units))
        self.bias = self.add_weight("b", (self.units,), initializer="ones")

    def call(self, inputs: Any) -> Any:
        return self.activation(inputs @ self.w + self.bias) * self.factor

    def get_config(self) -> dict[str, Any]:
        config = {"units": self.units, "factor": self.factor}
        return {**super().get_config(), **config}


class Rows(L.Conv2D):
    """A convolution as it is, but for a name and an argument of its own."""

    def __init__(self, *args: Any, note: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.note = note


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Forgets in the end what is registered in a test."""
    yield
    for kind in own_kinds._OWN:
        layer_kinds._ROWS.pop(kind.__name__)
        keras.utils.get_custom_objects().pop(kind.__name__)
    own_kinds._OWN.clear()


def network(*layers: Any) -> Any:
    keras.backend.reset_uids()
    keras.utils.set_random_seed(0)
    return keras.Sequential([L.Input((6,)), L.Dense(6), *layers, L.Dense(3)])


@pytest.mark.filterwarnings("ignore:.*stay in float:matar_tf.MatarWarning")
class TestInFloat:
    def test_kernels_follow_the_policy_and_other_weights_do_not(self) -> None:
        matar_tf.register_layer_kind(Gated, "w")
        model = quantize_model(network(Gated(name="gated")))
        space = matar_tf.get_policy_space(model)
        assert space.weights["gated"] == (2, 3, 4, 5, 6, 7, 8)
        matar_tf.calibrate(model, SAMPLES)
        outputs: list[np.ndarray] = []
        for bits in (8, 2):
            policy = space.named("w8a8")
            weights = {**policy.weights, "gated": bits}
            matar_tf.set_policy(model, replace(policy, weights=weights))
            outputs.append(model(SAMPLES).numpy())
        assert np.abs(outputs[0] - outputs[1]).max() > 0.05

    @pytest.mark.parametrize("kind", [Gated, Normed])
    def test_packaged_though_something_is_computed_of_the_kernel(
        self, kind: Any
    ) -> None:
        matar_tf.register_layer_kind(kind, "w")
        model = quantize_model(network(kind(name="own")))
        matar_tf.calibrate(model, SAMPLES)
        policy = matar_tf.get_policy_space(model).named("w8a8")
        policy = replace(policy, weights={**policy.weights, "own": 2})
        matar_tf.set_policy(model, policy)
        artifact = matar_tf.package(model, include_network=False)
        content = ModelBuilder(artifact).build(policy)
        given, expected = Runner(content).predict(SAMPLES), model(SAMPLES)
        np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)

    def test_a_kernel_that_nothing_reads(self) -> None:
        matar_tf.register_layer_kind(Unread, "w")
        model = quantize_model(network(Unread(name="own")))
        matar_tf.calibrate(model, SAMPLES)
        policy = matar_tf.get_policy_space(model).named("w8a8")
        artifact = matar_tf.package(model, include_network=False)
        content = ModelBuilder(artifact).build(policy)
        matar_tf.set_policy(model, policy)
        given, expected = Runner(content).predict(SAMPLES), model(SAMPLES)
        np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)

    def test_an_operation_that_no_file_holds(self) -> None:
        inner = L.Lambda(lambda x: tf.math.polygamma(1.0, tf.abs(x) + 1.0))
        with pytest.raises(ModelError, match="Polygamma"):
            quantize_model(network(inner))

    def test_what_keras_cannot_write_is_in_no_artifact(self) -> None:
        """TensorFlow's functions have signatures, which no configuration holds."""
        model = quantize_model(network(L.Lambda(tf.abs)))
        matar_tf.calibrate(model, SAMPLES)
        with pytest.warns(MatarWarning, match="whose configuration Keras can write"):
            artifact = matar_tf.package(model)
        policy = artifact.space.named("w8a8")
        matar_tf.set_policy(model, policy)
        found = Runner(ModelBuilder(artifact).build(policy)).predict(SAMPLES)
        np.testing.assert_allclose(found, model(SAMPLES), rtol=1e-5, atol=1e-6)

    def test_of_a_class_that_nobody_registered_nothing_does(self) -> None:
        with pytest.raises(ModelError, match="register its class"):
            quantize_model(network(Gated()), strict=True)
        space = matar_tf.get_policy_space(quantize_model(network(Gated())))
        assert set(space.weights) == {"dense", "dense_1"}

    def test_strict_says_what_a_registered_class_needs(self) -> None:
        matar_tf.register_layer_kind(Gated, "w")
        with pytest.raises(ModelError, match="register it with like="):
            quantize_model(network(Gated()), strict=True)

    def test_saved_and_loaded(self, tmp_path: Path) -> None:
        matar_tf.register_layer_kind(Gated, {"w": None})
        model = quantize_model(network(Gated()))
        matar_tf.calibrate(model, SAMPLES)
        path = tmp_path / "net.h5"
        with pytest.warns(UserWarning, match="HDF5"):
            model.save(path)
        np.testing.assert_array_equal(load_model(path)(SAMPLES), model(SAMPLES))

    def test_a_kernel_that_is_not_there(self) -> None:
        matar_tf.register_layer_kind(Gated, ["w", "gate"])
        with pytest.raises(ModelError, match="two axes or more as its attribute 'ga"):
            quantize_model(network(Gated()))


class TestLike:
    def test_integer_kernels_compute_it(self) -> None:
        matar_tf.register_layer_kind(Linear, "w", like="Dense")
        matar_tf.register_layer_kind(Rows, like="Conv2D")
        rows = L.Reshape((2, 3, 1)), Rows(4, (1, 2), padding="same"), L.Flatten()
        net = network(Linear(5, name="linear"), Linear(6, name="b"), *rows)
        model = quantize_model(net, strict=True)
        assert type(model.get_layer("quant_linear").layer) is L.Dense
        assert type(model.get_layer("quant_rows").layer) is L.Conv2D
        matar_tf.calibrate(model, SAMPLES)
        matar_tf.set_policy(model, matar_tf.get_policy_space(model).named("w8a8"))
        expected = net(SAMPLES).numpy()
        assert np.abs(model(SAMPLES).numpy() - expected).max() < 0.1 * np.ptp(expected)

    def test_on_tensors_of_two_shapes(self) -> None:
        matar_tf.register_layer_kind(Rows, like="Conv2D")
        one, other = L.Input((2, 3, 1)), L.Input((4, 5, 1))
        rows = Rows(4, (1, 2), padding="same", name="rows")
        ends = [L.Flatten()(rows(one)), L.Flatten()(rows(other))]
        model = quantize_model(keras.Model([one, other], ends), strict=True)
        assert list(matar_tf.get_policy_space(model).weights) == ["rows"]

    def test_what_computes_something_else(self) -> None:
        matar_tf.register_layer_kind(Linear, "w", like="Dense")
        with pytest.raises(ModelError, match=r"'linear' \(Linear\) to compute what a"):
            quantize_model(network(Linear(5, factor=2.0, name="linear")))

    def test_what_has_another_kernel(self) -> None:
        matar_tf.register_layer_kind(Linear, "w", like="Conv2D")
        with pytest.raises(ModelError, match="as a Conv2D has them"):
            quantize_model(network(Linear(5)))


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((L.Dense(3),), "class derived from tf_keras.layers.Layer"),
            ((keras.Model,), "class derived from tf_keras.layers.Layer"),
            ((L.Dense,), "taken for the Dense of Keras"),
            ((Gated, []), "kernels='w'"),
            ((Gated, {"w": 0}), "-1, -2 or None"),
            ((Gated, "not a name"), "names of attributes"),
            ((Gated, 3), "names of attributes"),
        ],
    )
    def test_of_classes_and_kernels(
        self, arguments: tuple[Any, ...], message: str
    ) -> None:
        with pytest.raises(ModelError, match=message):
            matar_tf.register_layer_kind(*arguments)
        assert not own_kinds._OWN

    def test_of_likeness(self) -> None:
        with pytest.raises(ModelError, match="Did you mean 'Conv2D'"):
            matar_tf.register_layer_kind(Gated, like="Conv2d")
        with pytest.raises(ModelError, match="one kernel"):
            matar_tf.register_layer_kind(Gated, ["a", "b"], like="Dense")

    def test_two_classes_of_a_name(self) -> None:
        matar_tf.register_layer_kind(Gated, "w")
        matar_tf.register_layer_kind(Gated, ["w"])  # once more is fine
        other = type("Gated", (L.Layer,), {"__module__": "elsewhere"})
        with pytest.raises(ModelError, match="name of its own"):
            matar_tf.register_layer_kind(other)
