"""Networks of Keras 3 in tf_keras: equal outputs, or all that is in the way at once."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras as keras3
import numpy as np
import pytest
from fixtures.paths import ROOT

from matar_tf.errors import ModelError
from matar_tf.keras import from_keras3, keras, load_model, quantize_model
from matar_tf.layer_kinds import LAYER_KINDS

L = keras3.layers
LEGACY = "TF_USE_LEGACY_KERAS"
IMAGE = (8, 8, 4)
SEQUENCE = (6, 4)


def with_values(model: Any, seed: int = 0) -> Any:
    """Gives a model weights that are all different."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.dtype.startswith("float"):
            variable.assign(rng.uniform(0.1, 0.9, variable.shape))
    for layer in model.layers:
        if isinstance(layer, L.Normalization):
            layer.finalize_state()
    return model


def samples_for(model: Any, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    found = [
        rng.integers(0, 9, (3, *one.shape[1:])).astype(one.dtype)
        if one.dtype.startswith("int")
        else rng.uniform(-1, 1, (3, *one.shape[1:])).astype(np.float32)
        for one in model.inputs
    ]
    return found if len(found) > 1 else found[0]


def outputs_of(model: Any, samples: Any) -> dict[Any, np.ndarray]:
    outputs = model(samples, training=False)
    if not isinstance(outputs, dict):
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        outputs = dict(enumerate(outputs))
    return {key: np.asarray(one) for key, one in outputs.items()}


def assert_equal(model: Any, again: Any) -> None:
    samples = samples_for(model)
    theirs, ours = outputs_of(model, samples), outputs_of(again, samples)
    assert set(theirs) == set(ours)
    for key, one in theirs.items():
        bound = 1e-5 * np.abs(one).max(initial=1e-6)
        np.testing.assert_allclose(ours[key], one, rtol=0, atol=bound, err_msg=key)


def comes_back(model: Any) -> Any:
    again = from_keras3(with_values(model))
    assert isinstance(again, keras.Model)
    assert_equal(model, again)
    return again


def of(shape: tuple[int, ...], *layers: Any, dtype: str = "float32") -> Any:
    return keras3.Sequential([keras3.Input(shape, dtype=dtype), *layers])


def spread(shape: tuple[int, ...], parts: dict[str, Any]) -> Any:
    """Makes a network of two inputs, each of whose outputs one layer makes of them."""
    x, y = keras3.Input(shape, name="x"), keras3.Input(shape, name="y")
    outputs = {
        name: part([x, y] if name in MERGES else x) for name, part in parts.items()
    }
    return keras3.Model([x, y], {**outputs, "both": L.Add()([x, y])})


MERGES = ("Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply")
MERGES += ("Subtract",)
IMAGES = {
    "Activation": L.Activation("sigmoid"),
    "Add": L.Add(),
    "AlphaDropout": L.AlphaDropout(0.3, seed=3),
    "Average": L.Average(),
    "AveragePooling2D": L.AveragePooling2D(3, 2, "same"),
    "BatchNormalization": L.BatchNormalization(epsilon=0.1),
    "BatchNormalization_frozen": L.BatchNormalization(
        scale=False, center=False, trainable=False
    ),
    "Concatenate": L.Concatenate(1),
    "Conv2D": L.Conv2D(6, 3, dilation_rate=2, groups=2, activation="relu"),
    "Conv2DTranspose": L.Conv2DTranspose(3, 3, 2, "same", output_padding=1),
    "Cropping2D": L.Cropping2D(((1, 2), (0, 1))),
    "DepthwiseConv2D": L.DepthwiseConv2D(3, depth_multiplier=2),
    "Dropout": L.Dropout(0.5, noise_shape=(None, 1, 1, 4)),
    "ELU": L.ELU(0.7),
    "Flatten": L.Flatten(),
    "GaussianDropout": L.GaussianDropout(0.2),
    "GaussianNoise": L.GaussianNoise(0.2),
    "GlobalAveragePooling2D": L.GlobalAveragePooling2D(keepdims=True),
    "GlobalMaxPooling2D": L.GlobalMaxPooling2D(),
    "GroupNormalization": L.GroupNormalization(2),
    "Identity": L.Identity(),
    "LeakyReLU": L.LeakyReLU(0.1),
    "MaxPooling2D": L.MaxPooling2D(3, 1, "same"),
    "Maximum": L.Maximum(),
    "Minimum": L.Minimum(),
    "Multiply": L.Multiply(),
    "Normalization": L.Normalization(),
    "Normalization_given": L.Normalization(mean=[1, 2, 3, 4], variance=[1, 2, 3, 4]),
    "PReLU": L.PReLU(shared_axes=(1, 2)),
    "Permute": L.Permute((3, 1, 2)),
    "RandomBrightness": L.RandomBrightness(0.2, seed=2),
    "RandomContrast": L.RandomContrast(0.2),
    "RandomFlip": L.RandomFlip("horizontal"),
    "RandomRotation": L.RandomRotation(0.2),
    "RandomTranslation": L.RandomTranslation(0.2, 0.1),
    "RandomZoom": L.RandomZoom(0.2),
    "ReLU": L.ReLU(6.0, 0.1, 0.2),
    "Rescaling": L.Rescaling([1.0, 2, 3, 4], 0.5),
    "Reshape": L.Reshape((4, -1)),
    "Resizing": L.Resizing(5, 6),
    "SeparableConv2D": L.SeparableConv2D(3, 2, activation="relu6"),
    "Softmax": L.Softmax(axis=1),
    "SpatialDropout2D": L.SpatialDropout2D(0.2),
    "Subtract": L.Subtract(),
    "UpSampling2D": L.UpSampling2D((2, 3)),
    "UpSampling2D_blended": L.UpSampling2D(2, interpolation="bilinear"),
    "ZeroPadding2D": L.ZeroPadding2D(((1, 2), (0, 1))),
}
SEQUENCES = {
    "AveragePooling1D": L.AveragePooling1D(2, padding="same"),
    "Bidirectional": L.Bidirectional(L.LSTM(3, return_sequences=True)),
    "Conv1D": L.Conv1D(3, 2, padding="causal"),
    "Conv1DTranspose": L.Conv1DTranspose(3, 3, 2, "same"),
    "Cropping1D": L.Cropping1D(1),
    "Dense": L.Dense(3, use_bias=False),
    "DepthwiseConv1D": L.DepthwiseConv1D(3),
    "Dot": L.Dot((1, 1)),
    "EinsumDense": L.EinsumDense("abc,cd->abd", (None, 3)),
    "GRU": L.GRU(3, return_sequences=True),
    "GlobalAveragePooling1D": L.GlobalAveragePooling1D(),
    "GlobalMaxPooling1D": L.GlobalMaxPooling1D(),
    "LSTM": L.LSTM(3, go_backwards=True),
    "LayerNormalization": L.LayerNormalization(epsilon=1e-6),
    "MaxPooling1D": L.MaxPooling1D(2),
    "SeparableConv1D": L.SeparableConv1D(3, 2),
    "SimpleRNN": L.SimpleRNN(3),
    "SpatialDropout1D": L.SpatialDropout1D(0.2),
    "TimeDistributed": L.TimeDistributed(L.Dense(2)),
    "UnitNormalization": L.UnitNormalization(),
    "UpSampling1D": L.UpSampling1D(2),
    "ZeroPadding1D": L.ZeroPadding1D((1, 2)),
}


def kinds_of(model: Any) -> set[str]:
    return {type(one).__name__ for one in model.layers}


def test_every_kind_of_the_integer_graph_that_keras_3_has_is_here() -> None:
    known = {
        name
        for name, row in LAYER_KINDS.items()
        if not row.is_ours and not row.is_float
    }
    shared = {name for name in known if hasattr(L, name)}
    elsewhere = {"InputLayer", "MultiHeadAttention", "RepeatVector"}
    elsewhere |= {name for name in shared if name.endswith("Pooling3D")}
    assert shared - elsewhere <= {*IMAGES, *SEQUENCES}


def test_layers_of_images() -> None:
    again = comes_back(spread(IMAGE, IMAGES))
    assert {name.partition("_")[0] for name in IMAGES} <= kinds_of(again)


def test_layers_of_sequences() -> None:
    assert set(SEQUENCES) <= kinds_of(comes_back(spread(SEQUENCE, SEQUENCES)))


def test_layers_of_vectors_volumes_and_words() -> None:
    vector, words = keras3.Input((4,)), keras3.Input((5,), dtype="int32")
    volume = keras3.Input((4, 4, 4, 2))
    embedded = L.Embedding(9, 4, mask_zero=True)(words)
    attended = L.MultiHeadAttention(2, 3, seed=1)
    outputs = [
        L.RepeatVector(3)(vector),
        L.Conv3D(3, 2, activation="silu")(volume),
        *(one(2)(volume) for one in (L.AveragePooling3D, L.MaxPooling3D)),
        *(one()(volume) for one in (L.GlobalAveragePooling3D, L.GlobalMaxPooling3D)),
        L.LSTM(3)(embedded),
        attended(embedded, embedded, use_causal_mask=True),
    ]
    again = comes_back(keras3.Model([vector, words, volume], outputs))
    assert {"Conv3D", "Embedding", "MultiHeadAttention"} <= kinds_of(again)


def test_activations() -> None:
    names = "elu exponential gelu hard_sigmoid hard_silu hard_swish leaky_relu linear"
    names += " mish relu relu6 selu sigmoid silu softmax softplus softsign swish tanh"
    alone = {name: L.Activation(name, name=f"{name}_alone") for name in names.split()}
    fused = {f"{name}_": L.Dense(3, name, name=f"{name}_fused") for name in alone}
    again = comes_back(spread(SEQUENCE, {**alone, **fused}))
    made = {one.name for one in again.layers}
    assert {one.name for one in (*alone.values(), *fused.values())} <= made


def nested() -> Any:
    """Two frozen parts: a nested network and a layer of it; a head; two calls."""
    x = keras3.Input(IMAGE)
    y = L.Conv2D(4, 3, padding="same", name="conv")(x)
    y = L.BatchNormalization(name="norm")(y)
    base = keras3.Model(x, [L.ReLU(name="relu")(y), y], name="base")
    base.get_layer("conv").trainable = False
    tail = of(IMAGE, L.Conv2D(4, 1, activation="hard_swish"))
    inner = keras3.Input(IMAGE)
    frozen = keras3.Model(inner, tail(L.Conv2D(4, 1, name="more")(inner)), name="froze")
    frozen.trainable = False
    inputs = [keras3.Input(IMAGE, name=f"image{i}") for i in range(2)]
    first, other = base(inputs[0]), base(inputs[1], training=False)
    z = L.Add()([first[0], other[1], frozen(first[1])])
    outputs = {"b": L.Dense(2, name="head")(z), "a": frozen(z)}
    return keras3.Model(inputs, outputs, name="whole")


def flags_of(model: Any) -> dict[str, bool]:
    found = {}
    for layer in model.layers:
        found |= {layer.name: layer.trainable} if layer.weights else {}
        if hasattr(layer, "layers"):
            found |= {f"{layer.name}/{key}": v for key, v in flags_of(layer).items()}
    return found


class TestStructure:
    def test_networks_within_stay_and_frozen_parts_stay_frozen(self) -> None:
        model = nested()
        again = comes_back(model)
        assert again.name == "whole"
        flags, expected = flags_of(again), flags_of(model)
        assert {key: flags[key] for key in expected} == expected
        assert flags["base/norm"]
        assert not flags["base/conv"]
        assert not flags["froze/more"]
        assert [one.shape for one in again.trainable_weights] == [
            tuple(one.shape) for one in model.trainable_weights
        ]
        assert isinstance(again.get_layer("base"), keras.Model)

    def test_a_shared_layer_stays_one(self) -> None:
        inputs = [keras3.Input((4,)) for _ in range(2)]
        shared = L.Dense(3, activation="relu6", name="shared")
        model = keras3.Model(inputs, L.Subtract()([shared(one) for one in inputs]))
        again = comes_back(model)
        assert len(again.weights) == 2

    def test_an_activation_that_is_a_layer(self) -> None:
        model = of(IMAGE, L.Conv2D(3, 1, activation=L.PReLU()))
        model(np.zeros((1, *IMAGE)))  # until then it has no weights
        again = comes_back(model)
        assert len(again.weights) == 3

    def test_regularizers_and_initializers_are_kept(self) -> None:
        model = of((4,), L.Dense(3, "relu", True, "he_normal", kernel_regularizer="l2"))
        again = comes_back(model)
        np.testing.assert_allclose(again.losses, [float(one) for one in model.losses])
        assert type(again.layers[-1].kernel_initializer).__name__ == "HeNormal"

    def test_what_is_made_can_be_quantized(self) -> None:
        again = from_keras3(
            of(IMAGE, L.Conv2D(4, 3), L.ReLU(), L.Flatten(), L.Dense(3))
        )
        assert quantize_model(again)(np.zeros((2, *IMAGE))).shape == (2, 3)

    def test_what_calls_say_of_training(self) -> None:
        x = keras3.Input((64,))
        kept = L.BatchNormalization()(x, training=False)
        again = comes_back(keras3.Model(x, [L.Dropout(0.5)(x), kept]))
        samples = np.full((2, 64), 5, np.float32)
        dropped, normal = (np.asarray(one) for one in again(samples, training=True))
        assert 0 < np.sum(dropped == 0) < dropped.size
        np.testing.assert_array_equal(normal, again(samples, training=False)[1])

    @pytest.mark.parametrize("with_optimizer", [False, True])
    def test_a_compiled_model(self, with_optimizer: bool) -> None:
        model = of((4,), L.Dense(3))
        model.compile("adam", "mse")
        if with_optimizer:
            model.fit(np.zeros((2, 4)), np.zeros((2, 3)), verbose=0)
        assert from_keras3(model).optimizer is None


def images(x: Any) -> dict[str, Any]:
    ops = keras3.ops
    return {
        "add": x + 3.0,
        "add channels": x + np.arange(4, dtype="float32"),
        "add at places": x + np.arange(32.0).reshape(8, 4),
        "add means": x + ops.mean(x, axis=(1, 2))[0],
        "subtract": 1.0 - (x - 0.5),
        "subtract at places": ops.subtract(np.arange(32.0).reshape(8, 4), x),
        "multiply": 2 * x,
        "divide": x / 4.0,
        "divide by": 1.0 / (3.0 + x),
        "divide two": x / ops.exp(x),
        "negative": -x,
        "sum of two": x + ops.square(x),
        "product": x * ops.sigmoid(x),
        "maximum": ops.maximum(x, -x),
        "relu": ops.relu6(ops.relu(x)),
        "hard": ops.hard_sigmoid(x) + ops.hard_silu(x),
        "softmax": ops.softmax(x, axis=1),
        "gelu": ops.gelu(x, approximate=False),
        "gelu by tanh": ops.gelu(x),
        "leaky": ops.leaky_relu(ops.elu(x)),
        "clip": ops.clip(x, 0, 0.5),
        "clip at -0.1": ops.clip(x, -0.1, 0.5),
        "mean": ops.mean(x, axis=(1, 2)),
        "max": ops.max(x, axis=[1, 2], keepdims=True),
        "mean of channels": ops.mean(x, axis=-1, keepdims=True),
        "reshape": ops.reshape(x, (-1, 64, 4)),
        "transpose": ops.transpose(x, (0, 3, 1, 2)),
        "concatenate": ops.concatenate([x, x], axis=-1),
        "matmul": ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))),
        "slice": x[:, 1:5, ..., ::2],
        "axes": ops.squeeze(ops.expand_dims(x, 1), 1),
        "stack": ops.stack([x, x], axis=2),
        "root": ops.sqrt(ops.abs(x)),
    }


def test_batch_norms_add_up_in_the_same_order() -> None:
    """What depth would make more than 1e-5 of is nothing at all."""
    inputs = x = keras3.Input((8, 8, 3))
    for _ in range(6):
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(x)))
    model = with_values(keras3.Model(inputs, x))
    samples = samples_for(model)
    found = from_keras3(model)(samples, training=False)
    np.testing.assert_array_equal(found, model(samples, training=False))


def test_operations() -> None:
    x = keras3.Input(IMAGE)
    comes_back(keras3.Model(x, images(x)))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: keras3.ops.roll(x, 1),
        lambda x: keras3.ops.sort(x),
    ],
)
def test_operations_that_no_layer_does(operation: Callable[[Any], Any]) -> None:
    x = keras3.Input(IMAGE)
    with pytest.raises(ModelError, match=r"^'\w+' \(\w+\) .*; \w+"):
        from_keras3(keras3.Model(x, operation(x)))


def test_constants_become_rescaling() -> None:
    x = keras3.Input(IMAGE)
    again = comes_back(keras3.Model(x, L.ReLU(6.0)(x + 3.0) * (1 / 6.0)))
    kinds = [type(one).__name__ for one in again.layers]
    assert kinds == ["InputLayer", "Rescaling", "ReLU", "Rescaling"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("EfficientNetB0", {}),
        ("MobileNetV2", {"alpha": 0.35}),
        ("MobileNetV3Small", {}),
    ],
)
def test_applications(name: str, options: dict[str, Any]) -> None:
    make = getattr(keras3.applications, name)
    model = make(input_shape=(32, 32, 3), weights=None, classes=5, **options)
    assert_equal(model, from_keras3(model))


class TestRefusals:
    def test_all_at_once_each_on_its_line(self) -> None:
        class Own(L.Layer):
            def call(self, inputs: Any) -> Any:
                return inputs

        model = of(
            SEQUENCE,
            of(SEQUENCE, L.Dense(4, activation="celu", name="deep")),
            L.Lambda(len, output_shape=SEQUENCE, name="lam"),
            Own(name="mine"),
            L.Dense(4, activation="log_softmax", name="odd"),
            L.Dense(4, dtype="mixed_float16", name="half"),
            L.RMSNormalization(name="rms"),
            L.LSTM(4, recurrent_activation="hard_sigmoid", name="rec"),
        )
        with pytest.raises(ModelError) as caught:
            from_keras3(model)
        title, *lines = str(caught.value).splitlines()
        assert "got 7 things that it cannot" in title
        for line, words in zip(
            lines,
            [
                ": 'deep' (Dense) has the activation 'celu'",
                "'lam' (Lambda) holds code of its own",
                "'mine' (Own)",
                "'odd' (Dense) has the activation 'log_softmax'",
                "'half' (Dense) has the dtype policy 'mixed_float16'",
                "'rms'",
                "'rec' (LSTM) has the activation 'hard_sigmoid'",
            ],
            strict=True,
        ):
            assert words in line

    def test_functions_under_the_name_of_one_of_keras(self) -> None:
        def relu(x: Any) -> Any:
            return 2 * x

        with pytest.raises(ModelError, match="a function of your own"):
            from_keras3(of((4,), L.Dense(3, activation=relu)))

    def test_subclassed_and_unbuilt_models(self) -> None:
        class Own(keras3.Model):
            pass

        with pytest.raises(ModelError, match="got the subclassed Own"):
            from_keras3(Own())
        with pytest.raises(ModelError, match="no input shape yet"):
            from_keras3(keras3.Sequential([L.Dense(2)]))

    def test_other_objects(self) -> None:
        own = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
        with pytest.raises(ModelError, match="pass it to quantize_model as it is"):
            from_keras3(own)
        with pytest.raises(ModelError, match=r"got builtins\.int"):
            from_keras3(3)

    def test_quantize_model_names_the_way(self) -> None:
        with pytest.raises(ModelError, match=r"matar_tf\.from_keras3\(model\)"):
            quantize_model(of((4,), L.Dense(3)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    path = tmp_path_factory.mktemp("saved") / "net.keras"
    model = with_values(nested())
    model.save(path)
    return model, path


def changed(
    path: Path, new: Path, change: Callable[[dict[str, Any]], Any] | None = None, **more
) -> Path:
    """Writes a ``.keras`` file with a changed config, and more members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    if change is not None:
        change(config)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(new, "w") as archive:
        for name, content in {**members, **more}.items():
            archive.writestr(name, content)
    return new


def alone(code: str) -> str:
    """Runs code in a process of its own, and returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={key: one for key, one in os.environ.items() if key != LEGACY},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


class TestFiles:
    def test_a_file_is_as_the_object(self, saved: Any) -> None:
        model, path = saved
        assert_equal(model, from_keras3(path))
        assert_equal(model, from_keras3(str(path)))

    def test_without_keras_3(self, saved: Any) -> None:
        code = (
            "import sys; sys.modules['keras'] = None\n"
            "import matar_tf\n"
            f"print(matar_tf.from_keras3({str(saved[1])!r}).count_params())\n"
        )
        assert alone(code) == f"{saved[0].count_params()}\n"

    def test_a_sequential_network(self, tmp_path: Path) -> None:
        model = with_values(of(IMAGE, L.Conv2D(2, 3), L.Flatten(), L.Dense(2)))
        model.compile("adam", "mse")
        model.fit(np.zeros((2, *IMAGE)), np.zeros((2, 2)), verbose=0)
        model.save(tmp_path / "net.keras")
        assert_equal(model, from_keras3(tmp_path / "net.keras"))

    def test_load_model_names_the_way(self, saved: Any) -> None:
        with pytest.raises(ModelError, match=r"matar_tf\.from_keras3"):
            load_model(saved[1])

    def test_a_file_of_tf_keras(self, tmp_path: Path) -> None:
        x = keras.layers.Input((2,))
        keras.Model(x, keras.layers.Dense(1)(x)).save(tmp_path / "net.keras")
        with pytest.raises(ModelError, match=r"matar_tf\.load_model"):
            from_keras3(tmp_path / "net.keras")

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="found nothing; check the path"):
            from_keras3(tmp_path / "net.keras")
        (tmp_path / "net.keras").write_bytes(b"something else")
        with pytest.raises(ModelError, match="zip"):
            from_keras3(tmp_path / "net.keras")


def first_layer(config: Any, kind: str) -> Any:
    """Returns the first layer of a kind in a config, at any depth."""
    for one in config["config"]["layers"]:
        if one["class_name"] == kind:
            return one
        if "layers" in one["config"] and (found := first_layer(one, kind)):
            return found
    return None


def sets(kind: str, **values: Any) -> Callable[[Any], None]:
    return lambda config: first_layer(config, kind).update(values)


def sets_argument(kind: str, **values: Any) -> Callable[[Any], None]:
    return lambda config: first_layer(config, kind)["config"].update(values)


def reads(name: str, number: int) -> list[Any]:
    config = {"shape": [None], "keras_history": [name, number, 0]}
    tensor = {"class_name": "__keras_tensor__", "config": config}
    return [{"args": [tensor], "kwargs": {}}]


def nests(config: Any) -> None:
    value: Any = 0
    for _ in range(70):
        value = [value]
    first_layer(config, "Dense")["config"]["units"] = value


def calls_often(config: Any) -> None:
    """Eight calls of eight calls, seven deep."""
    inner = first_layer(config, "Functional")
    for depth in range(7):
        name = f"n{depth}"
        start = {**inner["config"]["layers"][0], "name": "in"}
        start["config"] = {**start["config"], "name": "in"}
        calls = reads("in", 0) + [reads(inner["name"], i)[0] for i in range(7)]
        inner = {**inner, "inbound_nodes": calls}
        layers = [start, inner]
        ends = {"input_layers": ["in", 0, 0], "output_layers": [inner["name"], 8, 0]}
        network = {"name": name, "trainable": True, "layers": layers, **ends}
        inner = {**inner, "name": name, "config": network}
    config["config"] = inner["config"]


EVIL = {"module": "os", "class_name": "system", "config": {"command": "touch ran"}}
FUNCTION = {"module": "os", "class_name": "function", "config": "system"}
LARGE = {"class_name": "__numpy__", "config": {"value": ["a"], "dtype": "U100000000"}}


class TestHostileFiles:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (sets("Dense", module="evil"), r"is evil\.Dense, no layer"),
            (sets("Dense", module=None), r"is None\.Dense, no layer"),
            (sets("Dense", registered_name="pkg>Dense"), "no layer that Keras 3"),
            (sets("Dense", class_name="Wrapper"), "'head' \\(Wrapper\\) is "),
            (sets("Dense", class_name=["a"]), "a damaged config"),
            (
                sets("Add", module="keras.src.ops.x", class_name="eval"),
                "no counterpart",
            ),
            (sets_argument("Dense", kernel_initializer=EVIL), "numbers alone"),
            (sets_argument("Dense", kernel_regularizer=[EVIL]), "numbers alone"),
            (sets_argument("Dense", activation=FUNCTION), "activation 'system'"),
            (sets_argument("Dense", activation=EVIL), "has the activation"),
            (sets_argument("Dense", unknown=EVIL), "unknown=.* which tf_keras lacks"),
            (sets_argument("Dense", units=1 << 24), "weights take about"),
            (sets_argument("Dense", units=3), "that fit the layers"),
            (sets_argument("Dense", units="x"), "'head' .* fails"),
            (sets_argument("InputLayer", batch_shape=[None, 1 << 40]), "fails"),
            (sets("Dense", inbound_nodes=reads("head", 0)), "waits for what is not"),
            (sets("Dense", inbound_nodes=reads("nowhere", 0)), "waits for what is not"),
            (sets("Dense", inbound_nodes=reads("base", 99)), "waits for what is not"),
            (sets("Dense", inbound_nodes=[{"args": [LARGE], "kwargs": {}}]), "damaged"),
            (sets("Dense", inbound_nodes=[{"args": [1], "kwargs": {}}]), "no tensor"),
            (sets("Dense", inbound_nodes=[[["add", 0, 0, {}]]]), "damaged"),
            (sets("Dense", config=7), "damaged"),
            (nests, "nested too deeply"),
            (calls_often, "calls its layers as often as its config says"),
        ],
    )
    def test_configs(
        self, saved: Any, tmp_path: Path, change: Callable[[Any], None], message: str
    ) -> None:
        path = changed(saved[1], tmp_path / "net.keras", change)
        with pytest.raises(ModelError, match=message):
            from_keras3(path)
        assert not Path("ran").exists()

    def test_code_in_a_lambda_is_not_run(self, tmp_path: Path) -> None:
        mark = tmp_path / "ran"
        code = f"lambda x: (__import__('os').makedirs({str(mark)!r}, 448, True), x)[1]"
        layer = L.Lambda(eval(code), output_shape=(4,), name="lam")
        model = of((4,), L.Dense(4))
        model.save(tmp_path / "plain.keras")
        with warnings.catch_warnings(action="ignore"):
            entry = keras3.saving.serialize_keras_object(layer)
        path = changed(
            tmp_path / "plain.keras",
            tmp_path / "net.keras",
            lambda config: config["config"]["layers"].append(entry),
        )
        with pytest.raises(ModelError, match=r"'lam' \(Lambda\) holds code of its own"):
            from_keras3(path)
        assert not mark.exists()

    @pytest.mark.parametrize("name", ["../x", "/tmp/x", "assets/x", "config.json/x"])
    def test_other_members(self, saved: Any, tmp_path: Path, name: str) -> None:
        path = changed(saved[1], tmp_path / "net.keras", **{name: b"x"})
        with pytest.raises(ModelError, match=r"Expected the members .* got"):
            from_keras3(path)
        assert sorted(one.name for one in tmp_path.iterdir()) == ["net.keras"]

    def test_a_member_twice_and_a_bomb(self, saved: Any, tmp_path: Path) -> None:
        path = changed(saved[1], tmp_path / "net.keras")
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(match="Duplicate"):
            archive.writestr("config.json", b"{}")
        with pytest.raises(ModelError, match="twice"):
            from_keras3(path)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.json", b" " * (1 << 27))
        with pytest.raises(ModelError, match="bytes"):
            from_keras3(path)

    def test_links_in_the_weights(self, saved: Any, tmp_path: Path) -> None:
        with zipfile.ZipFile(saved[1]) as archive:
            weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights, "a") as file:
            file["layers/more"] = h5py.ExternalLink("/etc/other.h5", "secret")
        members = {"model.weights.h5": weights.getvalue()}
        path = changed(saved[1], tmp_path / "net.keras", **members)
        with pytest.raises(ModelError, match="got ExternalLink 'more'"):
            from_keras3(path)

    def test_arrays_that_belong_to_no_layer(self, saved: Any, tmp_path: Path) -> None:
        with zipfile.ZipFile(saved[1]) as archive:
            weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights, "a") as file:
            file["layers/dense_7/vars/0"] = np.zeros(3)
        members = {"model.weights.h5": weights.getvalue()}
        path = changed(saved[1], tmp_path / "net.keras", **members)
        with pytest.raises(ModelError, match="no arrays at 'layers/dense_7', got some"):
            from_keras3(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import keras, tensorflow; tensorflow.keras.layers.Dense",
        "import os; os.environ['TF_USE_LEGACY_KERAS'] = '0'",
    ],
)
def test_the_order_of_imports_does_not_matter(first: str) -> None:
    code = (
        f"{first}\n"
        "import matar_tf, matar_tf.keras, keras, numpy\n"
        "own, L = matar_tf.keras.keras, keras.layers\n"
        "assert own.__version__[0] == '2' and keras.__version__[0] == '3'\n"
        "model = keras.Sequential([keras.Input((4,)), L.Dense(3), L.ReLU()])\n"
        "model = matar_tf.quantize_model(matar_tf.from_keras3(model))\n"
        "assert isinstance(model, own.Model)\n"
        "assert model(numpy.ones((2, 4)), training=True).shape == (2, 3)\n"
        "print('fine')\n"
    )
    assert alone(code) == "fine\n"
