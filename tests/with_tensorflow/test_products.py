"""Sums of products, attention and layers of frames, as layers with kernels of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fixtures.nets import calibrated, keras_model
from fixtures.samples import normal_samples

from matar_tf.errors import MatarWarning, ModelError
from matar_tf.keras import keras, package, policy_space, quantize_model, set_policy
from matar_tf.keras._compat import tf
from matar_tf.keras.rewrite.build import build_model
from matar_tf.keras.rewrite.einsums import DenseForm, dense_form
from matar_tf.keras.rewrite.lowering import lower
from matar_tf.keras.rewrite.networks import layers_by_name
from matar_tf.keras.rewrite.read import read_graph
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner

L = keras.layers
ROWS, SOURCE, VIDEO = (6, 8), (4, 8), (3, 9, 7, 4)
ATTENTION = ["Dense", "Dense", "Dense", "AttentionCore", "Dense"]


def compared(
    apply: Callable[..., Any],
    *shapes: tuple[int | None, ...],
    dtypes: tuple[str, ...] = (),
) -> tuple[list[str], Any]:
    """Compares what a network and its rewritten form compute.

    Returns:
      The kinds of the new layers, and the new network.
    """
    keras.utils.set_random_seed(0)
    kinds = [*dtypes, *["float32"] * len(shapes)]
    inputs = [
        L.Input(one, dtype=kind) for one, kind in zip(shapes, kinds, strict=False)
    ]
    model = keras.Model(inputs, apply(*inputs))
    for one in model.trainable_weights:
        one.assign(tf.random.normal(one.shape) * 0.5)
    rng = np.random.default_rng(0)
    samples = [
        rng.normal(size=(2, *(size or 5 for size in one))) > -0.5
        if kind == "bool"
        else np.abs(rng.normal(size=(2, *(size or 5 for size in one))) * 3).astype(kind)
        for one, kind in zip(shapes, kinds, strict=False)
    ]
    new = build_model(lower(read_graph(model)), layers_by_name(model))
    expected, found = (tf.nest.flatten(one(samples)) for one in (model, new))
    for before, after in zip(expected, found, strict=True):
        assert np.ptp(before) > 0.1
        scale = np.abs(before).max()
        np.testing.assert_allclose(after, before, atol=1e-5 * scale)
    layers = [one for one in new.layers if not isinstance(one, L.InputLayer)]
    return [type(one).__name__ for one in layers], new


class TestEinsum:
    def test_axes_of_a_dense_form_by_hand(self) -> None:
        form = DenseForm(
            source=(0, 2, 1), kernel=(1, 0), num_summed=1, result=(0, 2, 1)
        )
        assert dense_form("abc,db->adc", 3) == form

    @pytest.mark.parametrize(
        "equation",
        [
            "abc,bcd->abd",  # a kernel for each place
            "abc,ad->bcd",  # samples are summed over
            "abc,cd->adb,",
            "abc,cd->ad",  # rows are summed over
            "aab,bc->aac",
            "abc,cd,de->abe",
            "abc,cd->bad",
            "abc,de->abcde",
        ],
    )
    def test_what_no_dense_layer_does(self, equation: str) -> None:
        assert dense_form(equation, 3) is None

    @pytest.mark.parametrize(
        ("arguments", "kinds"),
        [
            (("abc,cd->abd", (6, 9), "relu", "d"), ["Dense"]),
            (("...x,xy->...y", 9, None, "y"), ["Dense"]),
            (("abc,cde->abde", (6, 9, 2), "relu", "de"), ["Dense", "Reshape"]),
            (
                ("abc,cde->abde", (6, 9, 2), "softmax", "de"),
                ["Dense", "Reshape", "Activation"],
            ),
            (("ab...,bc->ac...", 9, None, None), ["Permute", "Dense", "Permute"]),
            (("abc,bcd->ad", 9, None, "d"), ["Reshape", "Dense"]),
            (
                ("abc,edc->adbe", (5, 6, 9), None, "d"),
                ["Dense", "Reshape", "Permute"],
            ),
            (("abc,bcd->abd", (6, 9), None, "bd"), ["EinsumDense"]),
            (("abc,cd->abd", (6, 9), None, "bd"), ["EinsumDense"]),
        ],
    )
    def test_a_layer(self, arguments: tuple[Any, ...], kinds: list[str]) -> None:
        assert compared(L.EinsumDense(*arguments), ROWS)[0] == kinds

    def test_what_is_none_is_named(self) -> None:
        inputs = L.Input(ROWS)
        outputs = L.EinsumDense("abc,bcd->abd", (6, 9))(inputs)
        with pytest.raises(ModelError, match="abc,bcd->abd"):
            quantize_model(keras.Model(inputs, outputs), strict=True)


class TestAttention:
    def test_of_itself(self) -> None:
        layer = L.MultiHeadAttention(2, 3, dropout=0.1, name="mha")
        kinds, model = compared(lambda x: layer(x, x), ROWS)
        assert kinds == ATTENTION
        names = ("query", "value", "key", "attention", "attention_output")
        assert [one.name for one in model.layers[1:]] == [f"mha/{n}" for n in names]

    @pytest.mark.parametrize(
        "apply",
        [
            lambda x, y: L.MultiHeadAttention(2, 3, 5, output_shape=7)(x, value=y),
            lambda x, y: L.MultiHeadAttention(2, 3, use_bias=False)(x, y, key=-y),
            lambda x, y: L.MultiHeadAttention(2, 3)(x, y, return_attention_scores=True),
            lambda x, y: L.MultiHeadAttention(2, 3)(x, y, use_causal_mask=True),
        ],
        ids=("sizes", "key", "scores", "causal"),
    )
    def test_across(self, apply: Any) -> None:
        assert [
            one for one in compared(apply, ROWS, SOURCE)[0] if one != "ChannelScale"
        ]

    def test_axes_and_sizes_that_are_not_known(self) -> None:
        for axes in (None, (2,)):
            layer = L.MultiHeadAttention(2, 3, attention_axes=axes)
            assert compared(lambda x, one=layer: one(x, x), (3, 4, 8))[0] == ATTENTION
        layer = L.MultiHeadAttention(2, 3, output_shape=(2, 4))
        assert compared(lambda x: layer(x, x), (None, 8))[0] == [*ATTENTION, "Reshape"]

    def test_masks(self) -> None:
        def masked(mask: Any, x: Any) -> Any:
            layer = L.MultiHeadAttention(2, 3)
            return layer(x, x, attention_mask=mask, use_causal_mask=True)

        def embedded(ids: Any) -> Any:
            x = L.Embedding(4, 8, mask_zero=True)(ids)
            return L.MultiHeadAttention(2, 3)(x, x)

        compared(masked, (6, 6), ROWS, dtypes=("bool",))
        assert compared(embedded, (6,), dtypes=("int32",))[0] == [
            "Embedding",
            *ATTENTION,
        ]

    @pytest.mark.filterwarnings("ignore:.*stay in float:matar_tf.MatarWarning")
    def test_dense_layers_of_what_a_float_layer_makes(self) -> None:
        def body(x: Any) -> Any:
            x = L.LayerNormalization()(L.Dense(8)(x))
            return L.MultiHeadAttention(2, 4, name="mha")(x, x)

        space = policy_space(keras_model(ROWS, body))
        assert {f"mha/{one}" for one in ("query", "key", "value")} < set(space.weights)
        assert "layer_normalization" in space.activations

    def test_of_a_file_is_that_of_keras(self) -> None:
        def body(x: Any) -> Any:
            x = L.Dense(8)(x)
            x = L.Add()([x, L.MultiHeadAttention(2, 4, name="mha")(x, x)])
            return L.Dense(6, activation="gelu")(x)

        network = keras_model(ROWS, body)
        with pytest.raises(ModelError, match=r"'mha'.*products of tensors"):
            quantize_model(network, strict=True)
        samples = normal_samples(ROWS, 32)
        with pytest.warns(MatarWarning, match=r"'mha'.*products of tensors"):
            model = calibrated(network, samples)
        artifact = package(model)
        parts = ("query", "value", "key", "attention_output")
        assert {f"mha/{one}" for one in parts} < set(artifact.space.weights)
        policy = artifact.space.named("w4a4")
        set_policy(model, policy)
        content = ModelBuilder(artifact).build(policy)
        step = artifact.parameters.tensors["logits"].step[-1]
        expected, found = (one.predict(samples) for one in (model, Runner(content)))
        assert (np.abs(found - expected) > step / 2).mean() < 0.02


class TestFrames:
    @pytest.mark.parametrize(
        ("layer", "kind"),
        [
            (L.Dense(5, activation="relu"), "Dense"),
            (L.Conv1D(5, 3, strides=2, padding="same"), "Conv2D"),
            (L.MaxPooling1D(2), "MaxPooling2D"),
            (L.AveragePooling1D(3, 2, padding="same"), "AveragePooling2D"),
            (L.GlobalMaxPooling1D(), "MaxPooling2D"),
            (L.Flatten(), "Reshape"),
            (L.Reshape((4, 7)), "Reshape"),
            (L.BatchNormalization(), "BatchNormalization"),
            (L.Activation("softmax"), "Activation"),
        ],
    )
    def test_of_sequences(self, layer: Any, kind: str) -> None:
        assert kind in compared(L.TimeDistributed(layer), (3, 7, 4))[0]

    @pytest.mark.parametrize(
        "layer",
        [
            L.Dense(5, activation="relu"),
            L.Conv2D(5, 3, activation="relu"),
            L.Conv2D(5, 3, strides=2, padding="same"),
            L.Conv2D(5, 2, strides=3),
            L.Conv2D(5, 3, dilation_rate=2, padding="same"),
            L.Conv2D(5, (2, 5), strides=(1, 2), padding="same"),
            L.DepthwiseConv2D(3, strides=2, depth_multiplier=2),
            L.MaxPooling2D(2),
            L.AveragePooling2D((3, 1)),
            L.GlobalAveragePooling2D(),
        ],
    )
    def test_of_images(self, layer: Any) -> None:
        kinds, _ = compared(L.TimeDistributed(layer), VIDEO)
        assert "TimeDistributed" not in kinds

    def test_any_number_of_them(self) -> None:
        layer = L.TimeDistributed(L.Conv2D(5, 3, padding="same"))
        assert "Conv2D" in compared(layer, (None, *VIDEO[1:]))[0]

    @pytest.mark.parametrize("inner", [L.LSTM(3), L.Conv1D(3, 2, padding="causal")])
    def test_what_stays_is_named(self, inner: Any) -> None:
        inputs = L.Input((3, 7, 4))
        outputs = L.TimeDistributed(inner)(inputs)
        with pytest.raises(ModelError, match=type(inner).__name__):
            quantize_model(keras.Model(inputs, outputs), strict=True)
