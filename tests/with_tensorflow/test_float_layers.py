"""Layers that no integer kernel computes: in float, between quantized ones."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.nets import L
from fixtures.programs import call

from matar_tf.artifact import Artifact, read_artifact, write_artifact
from matar_tf.errors import ArtifactError, ExportError, MatarWarning, ModelError
from matar_tf.keras import (
    calibrate,
    keras,
    load_model,
    package,
    quantize_model,
    summary,
)
from matar_tf.keras._compat import tf
from matar_tf.keras.packaging.network import load_network
from matar_tf.keras.policies import get_policy_space, set_policy
from matar_tf.policy import ALL_BITS
from matar_tf.run.costs import cost_matrix
from matar_tf.samplers import IndependentSampler, draw_policies
from matar_tf.targets import load_target
from matar_tf.tflite._schema import op_name, parse_model, schema, tensor_array
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.file_size import FileSizes
from matar_tf.tflite.profiles import PROFILES
from matar_tf.tflite.runtime import Runner


def net(shape: tuple[int, ...], *layers: Any) -> Any:
    inputs = keras.Input(shape)
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def quantized(model: Any, **options: Any) -> Any:
    with pytest.warns(MatarWarning, match="stay in float"):
        return quantize_model(model, **options)


def samples_of(model: Any, number: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (number, *model.input_shape[1:])
    if model.inputs[0].dtype == "int32":
        return rng.integers(0, 9, shape).astype(np.int32)
    return rng.normal(size=shape).astype(np.float32)


def low_space(model: Any) -> Any:
    """Every weight may have 2 bits."""
    space = get_policy_space(model)
    return space.with_choices(weights=dict.fromkeys(space.weights, (2, 8)))


class Doubled(L.Layer):
    def call(self, x: Any) -> Any:
        return 2.0 * tf.sin(x)


def mixed() -> Any:
    return net(
        (6, 6, 3),
        L.Conv2D(4, 3, activation="relu", name="first"),
        L.LayerNormalization(name="norm"),
        Doubled(name="own"),
        L.ReLU(name="relu"),
        L.Conv2D(4, 3, activation="softsign", name="second"),
        L.Flatten(name="flat"),
        L.Dense(3, name="logits"),
    )


class TestPlacement:
    def test_grids_are_where_integers_read_floats(self) -> None:
        model = quantized(mixed())
        kinds = [type(one).__name__ for one in model.layers]
        start, end = kinds.index("Dequantize"), kinds.index("Quantize")
        assert kinds[start:end] == [
            *("Dequantize", "LayerNormalization", "Doubled", "ReLU")
        ]
        space = get_policy_space(model)
        assert set(space.weights) == {"first", "second", "logits"}
        # That of the ReLU has no levels below 0, and none of the others has a grid.
        assert "relu" in space.activations
        assert not {"norm", "own"} & set(space.activations)
        grid = model.get_layer("relu_quantize").multi_bit_quantizers[0]
        assert grid.signed is False

    def test_what_stays_in_float_is_said_with_its_reason(self) -> None:
        with pytest.warns(MatarWarning) as caught:
            quantize_model(mixed())
        title, *lines = str(caught[0].message).split("\n  ")
        assert "strict=True" in title
        assert [next(n for n in _NAMES if f"'{n}'" in one) for one in lines] == [
            *_NAMES
        ]

    def test_strict_is_an_error_that_names_each(self) -> None:
        with pytest.raises(ModelError) as caught:
            quantize_model(mixed(), strict=True)
        for name in ("norm", "own", "second"):
            assert f"'{name}'" in str(caught.value)

    def test_a_network_of_integers_says_nothing(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            quantize_model(net((4,), L.Dense(2)), strict=True)


_NAMES = ("norm", "own", "relu", "second_activation", "flat")


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Artifact, np.ndarray]:
    keras.utils.set_random_seed(0)
    model = quantized(mixed())
    samples = samples_of(model)
    calibrate(model, samples)
    model.compile("adam", "mse")
    model.fit(samples, np.zeros((16, 3)), verbose=0)
    with pytest.warns(MatarWarning, match="holds no Keras network"):
        return model, package(model), samples


class TestMixed:
    @pytest.mark.parametrize("name", ["w8a8", "w2a4"])
    def test_the_file_is_the_keras_network(self, trained: Any, name: str) -> None:
        model, artifact, samples = trained
        policy = artifact.space.named(name)
        set_policy(model, policy)
        content = ModelBuilder(artifact).build(policy)
        found = Runner(content).predict(samples)
        np.testing.assert_array_equal(found, model.predict(samples, verbose=0))

    def test_nothing_of_an_island_is_of_integers(self, trained: Any) -> None:
        _, artifact, _ = trained
        model = parse_model(artifact.template)
        graph, islands = model.subgraphs[0], artifact.template_map.islands
        assert {"norm", "own", "relu"} <= set(islands)
        for number in (i for at in islands.values() for i in at):
            made = graph.tensors[graph.operators[number].outputs[0]]
            assert made.type == schema.TensorType.FLOAT32
        names = {op_name(model, one) for one in graph.operators}
        assert "CUSTOM" not in names

    def test_an_artifact_without_network_says_so(
        self, trained: Any, tmp_path: Path
    ) -> None:
        _, artifact, _ = trained
        write_artifact(artifact, tmp_path / "net.matar")
        again = read_artifact(tmp_path / "net.matar")
        assert again.template_map == artifact.template_map
        assert "'own'" in again.provenance["float_layers"]["own"]
        with pytest.raises(ArtifactError, match="holds no Keras network"):
            load_network(again)


NETS = {
    "lstm": lambda: net((3, 5), L.LSTM(4, name="a"), L.Dense(3)),
    "gru": lambda: net((2, 5), L.Bidirectional(L.GRU(4), name="a"), L.Dense(3)),
    "words": lambda: _words(),
    "volumes": lambda: net(
        (4, 4, 4, 2),
        L.Conv3D(4, 3, activation="relu", name="a"),
        L.BatchNormalization(),
        L.Flatten(),
        L.Dense(3),
    ),
}


def _words() -> Any:
    inputs = keras.Input((4,), dtype="int32")
    x = L.Embedding(9, 6, mask_zero=True, name="a")(inputs)
    x = L.Dense(3)(L.SimpleRNN(4, name="rnn")(x))
    return keras.Model(inputs, x)


@pytest.mark.parametrize("name", NETS)
def test_kernels_in_float_have_n_bits(name: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    made = NETS[name]()
    model = quantized(made, space=low_space(quantized(made)))
    samples = samples_of(model)
    calibrate(model, samples)
    model.compile("adam", "mse")
    model.fit(samples, np.ones((16, 3)), verbose=0)
    model.save(tmp_path / "model.h5")
    again = load_model(tmp_path / "model.h5")
    artifact = package(model)
    write_artifact(artifact, tmp_path / "net.matar")
    artifact = read_artifact(tmp_path / "net.matar")
    networks = (model, again, load_network(artifact))
    for uniform in ("w2a8", "w8a8"):
        policy = artifact.space.named(uniform)
        content = ModelBuilder(artifact).build(policy)
        found = Runner(content).predict(samples)
        for one in networks:
            set_policy(one, policy)
            np.testing.assert_array_equal(one(samples, training=False), found)
        _check_levels(content, artifact, int(uniform[1]))


def _check_levels(content: bytes, artifact: Artifact, bits: int) -> None:
    """Each value of a kernel is stored, as one of the levels of its width."""
    model = parse_model(content)
    tensors = {bytes(one.name).decode(): one for one in model.subgraphs[0].tensors}
    for entry, pieces in artifact.template_map.pieces.items():
        (only,) = pieces
        values = tensor_array(model, tensors[f"{entry}/kernel"])
        assert values is not None
        assert values.size == artifact.parameters.layers[entry].kernel.size
        assert values.dtype == np.int8
        assert (only.offset, values.max() < 2 ** (bits - 1)) == (0, True)
        assert values.min() >= -(2 ** (bits - 1))


def test_operations_that_no_layer_does_stay_as_they_are() -> None:
    inputs = L.Input((6, 6, 3))
    x = L.Conv2D(3, 3)(inputs)
    x = tf.einsum("bhwc,bhwd->bhwcd", x, x)[..., 0] * tf.cast(x > 0.0, tf.float32)
    made = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Conv2D(4, 1)(x))))
    model, samples = quantized(made), samples_of(made)
    calibrate(model, samples)
    with pytest.warns(MatarWarning, match="holds no Keras network"):
        artifact = package(model)
    policy = artifact.space.named("w8a8")
    set_policy(model, policy)
    found = Runner(ModelBuilder(artifact).build(policy)).predict(samples)
    np.testing.assert_array_equal(found, model.predict(samples, verbose=0))


def test_a_transposed_convolution_has_no_form_in_float() -> None:
    layer = L.Conv2DTranspose(3, 3, strides=2, output_padding=1)
    with pytest.raises(ModelError, match="no output_padding"):
        quantize_model(net((6, 6, 3), layer))


def outputs_of(model: Any, name: str) -> tuple[Any, Any]:
    """Returns what Keras and the file make of samples under a policy."""
    calibrate(model, samples := samples_of(model))
    policy = get_policy_space(model).named(name)
    set_policy(model, policy)
    file = ModelBuilder(package(model)).build(policy)
    return model(samples, training=False), Runner(file).predict(samples)


def test_states_of_recurrent_layers() -> None:
    inputs = keras.Input((4, 5))
    sequence, hidden, cell = L.LSTM(3, return_sequences=True, return_state=True)(inputs)
    x = L.LSTM(3)(L.Dense(5)(sequence), initial_state=[hidden, cell])
    model = quantized(keras.Model(inputs, L.Dense(3)(L.Concatenate()([x, cell]))))
    expected, given = outputs_of(model, "w8a8")
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)


RECURRENT = {
    "gru": ((3, 5), lambda: L.GRU(4, reset_after=False)),
    "gru of one step": ((1, 5), lambda: L.GRU(4)),
    "lstm of one step": ((1, 5), lambda: L.Bidirectional(L.LSTM(4))),
    "lines": ((3, 6, 2), lambda: L.ConvLSTM1D(4, 3, go_backwards=True)),
    "frames": ((2, 6, 6, 2), lambda: L.ConvLSTM2D(4, 3, return_sequences=True)),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_in_all_their_forms(name: str) -> None:
    shape, layer = RECURRENT[name]
    model = quantized(net(shape, layer(), L.Flatten(), L.Dense(3)))
    assert len(get_policy_space(model).weights) == (5 if "lstm" in name else 3)
    expected, given = outputs_of(model, "w4a8")
    np.testing.assert_array_equal(given, expected)


def test_masks_that_recurrent_layers_are_told() -> None:
    words = keras.Input((4,), dtype="int32")
    x = L.LSTM(4)(L.Embedding(9, 6)(words), mask=tf.not_equal(words, 0))
    model = quantized(keras.Model(words, L.Dense(3)(x)))
    with pytest.warns(MatarWarning, match="holds no Keras network"):
        expected, given = outputs_of(model, "w4a8")
    np.testing.assert_array_equal(given, expected)
    # Words behind the first are masked in one half.
    tokens = np.array([[3, 0, 0, 0], [3, 3, 3, 3]], np.int32)
    alone, repeated = model(tokens, training=False)
    assert np.abs(alone - repeated).max() > 1e-4


def test_every_step_of_two_directions_behind_a_mask() -> None:
    words = keras.Input((4,), dtype="int32")
    x = L.Embedding(9, 6, mask_zero=True)(words)
    x = L.Bidirectional(L.GRU(2, return_sequences=True))(x)
    model = quantized(keras.Model(words, L.Dense(3)(L.Flatten()(x))))
    expected, given = outputs_of(model, "w4a8")
    np.testing.assert_array_equal(given, expected)


def test_products_of_convolutions_in_a_recurrent_layer() -> None:
    model = quantized(net((3, 6, 6, 2), L.ConvLSTM2D(4, 3, name="a"), L.Flatten()))
    calibrate(model, samples_of(model))
    macs = {one.name: one.macs for one in package(model).workload.layers}
    places, gates = 4 * 4, 4 * 4  # of 6 x 6 under 3 x 3; four of four channels
    assert macs["a/kernel"] == 3 * places * gates * 3 * 3 * 2
    assert macs["a/recurrent_kernel"] == 3 * places * gates * 3 * 3 * 4


@pytest.mark.parametrize("layer", [L.LSTM(3), L.Bidirectional(L.GRU(3))])
def test_states_that_are_kept_are_refused(layer: Any) -> None:
    getattr(layer, "forward_layer", layer).stateful = True
    inputs = keras.Input(batch_shape=(2, 3, 5))
    with pytest.raises(ModelError, match=f"'{layer.name}'.* stateful=True.*return_st"):
        quantize_model(keras.Model(inputs, L.Dense(2)(layer(inputs))))


def test_more_axes_than_a_file_has_are_refused() -> None:
    layer = L.ConvLSTM3D(2, 3)
    with pytest.raises(ModelError, match="at most 5 axes"):
        quantize_model(net((2, 4, 4, 4, 2), layer, L.Flatten()))
    flat = L.Reshape((2, 4, 4, 4, 2))
    with pytest.raises(ModelError, match="at most 5 axes"):
        quantize_model(net((2, 4, 4, 8), flat, L.ConvLSTM3D(2, 3, padding="same")))


def test_outputs_in_float_beside_others() -> None:
    inputs = keras.Input((6,))
    x = L.Dense(4, name="first")(inputs)
    made = [L.Dense(3, name="logits")(x), L.LayerNormalization(name="norm")(x)]
    expected, given = outputs_of(quantized(keras.Model(inputs, made)), "w8a8")
    assert sorted(given) == ["logits", "norm"]
    for name, one in zip(("logits", "norm"), expected, strict=True):
        np.testing.assert_allclose(given[name], one, rtol=1e-5, atol=1e-6)


def test_an_output_in_float_that_an_integer_layer_reads_as_well() -> None:
    inputs = keras.Input((6,))
    x = L.LayerNormalization(name="norm")(L.Dense(4)(inputs))
    model = quantized(keras.Model(inputs, [x, L.Dense(3, name="logits")(x)]))
    expected, given = outputs_of(model, "w8a8")
    for name, one in zip(("norm", "logits"), expected, strict=True):
        np.testing.assert_allclose(given[name], one, rtol=1e-5, atol=1e-6)
    on_grid = keras.Model(model.input, model.get_layer("norm_quantize").output)
    rounded = on_grid(samples_of(model), training=False)
    assert np.abs(given["norm"] - rounded).max() > 1e-3  # as float layers make it


def test_pools_over_volumes_behind_a_function_in_float() -> None:
    layers = [L.Conv3D(4, 3, padding="same"), L.ReLU(), L.MaxPooling3D(2)]
    model = quantized(net((4, 4, 4, 2), *layers, L.Flatten(), L.Dense(3)))
    expected, given = outputs_of(model, "w8a8")
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)


def test_an_input_that_layers_of_both_kinds_read() -> None:
    inputs = keras.Input((6,), name="given")
    x = L.Dense(3, name="logits")(L.LayerNormalization()(inputs))
    made = [x, L.Dense(2, name="second")(inputs)]
    model = quantized(keras.Model(inputs, made))
    expected, given = outputs_of(model, "w8a8")
    for name, one in zip(("logits", "second"), expected, strict=True):
        np.testing.assert_allclose(given[name], one, rtol=1e-5, atol=1e-6)
    workload = package(model).workload
    assert workload.inputs == ("given",)
    assert workload.tensors["given"].activation is None  # the input as it is


def test_attention_behind_a_mask_is_loaded_again(tmp_path: Path) -> None:
    words = keras.Input((4,), dtype="int32")
    hidden = keras.Input((4, 4), dtype="int32", name="hidden")
    x = L.Embedding(9, 6, mask_zero=True)(words)
    x = L.MultiHeadAttention(2, 4)(x, x, attention_mask=hidden, use_causal_mask=True)
    made = keras.Model([words, hidden], L.Dense(3)(L.GlobalAveragePooling1D()(x)))
    model = quantized(made)
    rng = np.random.default_rng(0)
    samples = [rng.integers(0, 4, (8, 4)), rng.integers(0, 2, (8, 4, 4))]
    calibrate(model, samples)
    model.save(tmp_path / "model.h5")
    artifact = package(model)
    policy = artifact.space.named("w3a8")
    set_policy(model, policy)
    expected = model(samples, training=False)
    for again in (load_model(tmp_path / "model.h5"), load_network(artifact)):
        set_policy(again, policy)
        np.testing.assert_array_equal(again(samples, training=False), expected)
    unmasked = [samples[0], np.ones_like(samples[1])]
    assert np.abs(model(unmasked, training=False) - expected).max() > 1e-4


# Microcontrollers take no layers in float.
@pytest.mark.parametrize("profile", [one for one in PROFILES if one != "tflm"])
def test_sizes_of_files_of_pieces_and_of_shared_kernels(
    twins: tuple[Any, Artifact], profile: str
) -> None:
    _, artifact = twins
    builder = ModelBuilder(artifact)
    sizes = FileSizes(builder, profile=profile)
    policies = [artifact.space.named(one) for one in ("w8a8", "w4a4", "w2a2")]
    policies += draw_policies(artifact.space, IndependentSampler(bits=ALL_BITS), 12, 7)
    for policy in policies:
        assert sizes(policy) == len(builder.build(policy, profile=profile))
    found = {sizes(artifact.space.named(one)) for one in ("w8a8", "w4a8", "w2a8")}
    assert (len(found) == 1) == (profile == "int8")


@pytest.fixture(scope="module")
def twins() -> tuple[Any, Artifact]:
    """Two calls of one dense layer, and an LSTM whose kernels are four pieces each."""
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((2, 5), name=name) for name in ("a", "b")]
    shared = L.Dense(6, activation="relu", name="shared")
    x = L.LSTM(9, name="lstm")(L.Concatenate()([shared(one) for one in inputs]))
    x = L.Dense(3)(L.Dense(8)(x))
    model = quantized(keras.Model(inputs, x))
    space = get_policy_space(model)
    free = dict.fromkeys(space.weights, ALL_BITS)
    model = quantized(keras.Model(inputs, x), space=space.with_choices(weights=free))
    rng = np.random.default_rng(0)
    calibrate(model, {name: rng.normal(size=(8, 2, 5)) for name in "ab"})
    return model, package(model)


def test_bytes_are_those_of_the_summary(twins: tuple[Any, Artifact]) -> None:
    model, artifact = twins
    # A byte for each weight; four for each bias, and for the scale of each channel.
    lstm = (12 + 9) * 36 + 4 * 36 + 4 * 2 * 36
    shared = 5 * 6 + 2 * 4 * (6 + 6)
    last = (9 * 8 + 4 * (8 + 8)) + (8 * 3 + 4 * (3 + 3))
    assert summary(model).weight_bytes[8] == lstm + shared + last
    assert f" {lstm + shared + last:,} bytes of weights at 8 bits" in repr(artifact)


def test_no_price_of_16_bits_without_a_file(tmp_path: Path, capsys: Any) -> None:
    model = quantized(_words())
    calibrate(model, samples_of(model))
    artifact = package(model)
    with pytest.raises(ExportError, match="the table of 'a'") as caught:
        ModelBuilder(artifact).build(artifact.space.policy("w8a16"))
    target = load_target("host_litert")
    policies = {name: artifact.space.policy(name) for name in ("w8a8", "w8a16")}
    narrow, wide = cost_matrix(artifact, policies, [target]).entries
    assert (narrow.violations, wide.violations) == ((), (str(caught.value),))
    assert not wide.figures
    write_artifact(artifact, tmp_path / "a.matar")
    names = ["--policies=w8a8,w8a16", "--targets=host_litert", "--layers"]
    assert call("cost", f"--artifact={tmp_path / 'a.matar'}", *names) == 0
    assert "w8a16" not in capsys.readouterr().out
