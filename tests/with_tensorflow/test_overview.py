"""The table of what is quantized, where."""

from __future__ import annotations

from typing import Any

import pytest
from fixtures.nets import L, build_net

import matar_tf
from matar_tf.errors import MatarWarning, ModelError
from matar_tf.keras import MultiBitTrainer, keras, quantize_model, summary
from matar_tf.keras._compat import tfmot
from matar_tf.keras.packaging.convert import make_template
from matar_tf.pricing.memory import layer_weight_bytes
from matar_tf.tflite.workload import read_workload


def network() -> Any:
    keras.backend.reset_uids()
    inputs = L.Input((6, 6, 3), name="image")
    x = L.Conv2D(4, 3, name="first")(inputs)
    x = L.Dropout(0.5, name="drop")(L.ReLU(name="relu")(x))
    x = L.Conv2D(2, 1, use_bias=False, name="second")(x)
    x = L.ReLU(name="relu2")(L.BatchNormalization(name="norm")(x))
    x = L.AveragePooling2D(2, name="pool")(x)
    left = L.Conv2D(3, 1, name="left")(x)
    right = L.Conv2D(3, 1, activation="sigmoid", name="right")(x)
    x = L.Concatenate(name="both")([left, right])
    x = L.Dense(5, activation="softmax", name="last")(L.Flatten(name="flat")(x))
    return keras.Model(inputs, x, name="net")


@pytest.fixture(scope="module")
def model() -> Any:
    return quantize_model(network())


def test_each_layer_by_hand(model: Any) -> None:
    found = summary(model)
    assert found.name == "net"
    rows = {one.name: one for one in found.layers}
    free, fixed, none = tuple(range(2, 9)), (8,), ()
    for name, kind, shape, quantized, weight_bits, activation_bits, macs, note in [
        ("image", "InputQuantize", (6, 6, 3), ("output",), none, fixed, 0, ""),
        # 4 x 4 places of 3 * 3 * 3 * 4 values.
        ("first", "Conv2D", (4, 4, 4), ("kernel",), fixed, none, 1728, "by 'relu'"),
        ("relu", "ReLU", (4, 4, 4), ("output",), none, free, 0, ""),
        ("drop", "Dropout", (4, 4, 4), (), none, none, 0, "identity at inference"),
        ("second", "Conv2D", (4, 4, 2), ("kernel",), free, none, 128, "by 'relu2'"),
        (
            *("norm", "MultiBitBatchNormalization", (4, 4, 2), ()),
            *(none, none, 0, "folded into 'second'"),
        ),
        ("relu2", "ReLU", (4, 4, 2), ("output",), none, free, 0, ""),
        (
            *("pool", "AveragePooling2D", (2, 2, 2), ("grid of its input",)),
            *(none, none, 0, ""),
        ),
        ("left", "Conv2D", (2, 2, 3), ("kernel", "output"), free, fixed, 24, ""),
        (
            *("right_sigmoid", "Activation", (2, 2, 3), ("fixed grid",)),
            *(none, none, 0, ""),
        ),
        # What brings the sigmoid onto the grid that it is joined on.
        (
            *("right_scale", "ChannelScale", (2, 2, 3), ("kernel", "grid of 'left'")),
            *(fixed, none, 12, ""),
        ),
        ("both", "Concatenate", (2, 2, 6), (), none, none, 0, "are on one grid"),
        ("flat", "Flatten", (24,), (), none, none, 0, "keeps the grid"),
        ("last", "Dense", (5,), ("kernel", "output"), fixed, fixed, 120, ""),
        ("last_softmax", "Activation", (5,), (), none, none, 0, "output is float"),
    ]:
        row = rows.pop(name)
        assert (row.kind, row.shape, row.macs) == (kind, shape, macs)
        assert (row.weight_bits, row.activation_bits) == (weight_bits, activation_bits)
        assert (row.quantized, bool(row.note)) == (quantized, bool(note))
        assert row.is_integer is bool(macs)
        assert note in row.note
    assert set(rows) == {"right"}
    assert found.macs == 1728 + 128 + 24 + 24 + 12 + 120
    assert found.integer_share == 1.0


def test_bytes_by_hand(model: Any) -> None:
    found = summary(model)
    rows = {one.name: one for one in found.layers}
    # 8 values, two biases of the norm and two scales of 4 bytes.
    assert rows["second"].weight_bytes == {8: 24, 4: 20, 2: 18}
    # 120 values that stay at 8 bits, five biases and scales.
    assert rows["last"].weight_bytes == dict.fromkeys((8, 4, 2), 160)
    assert rows["flat"].weight_bytes == {}
    for bits, total in found.weight_bytes.items():
        assert total == sum(one.weight_bytes.get(bits, 0) for one in found.layers)


def without_biases() -> Any:
    inputs = L.Input((6, 6, 3))
    x = L.Conv2DTranspose(4, 3, strides=2, use_bias=False)(inputs)
    x = L.DepthwiseConv2D(3, use_bias=False)(L.Conv2D(4, 3, use_bias=False)(x))
    x = L.BatchNormalization()(L.ReLU()(x))
    return keras.Model(inputs, L.Dense(2, use_bias=False)(L.Flatten()(x)))


@pytest.mark.parametrize("make", [lambda: build_net("pools1d"), without_biases])
def test_counts_are_those_of_the_integer_graph(make: Any) -> None:
    model = quantize_model(make())
    rows = {one.name: one for one in summary(model).layers if one.macs}
    workload = read_workload(make_template(model))
    layers = [one for one in workload.layers if one.weights]
    assert {one.weights for one in layers} == set(rows)
    for layer in layers:
        row = rows[layer.weights]
        assert row.macs == layer.macs
        for bits in set(row.weight_bits) & {2, 4, 8}:
            assert row.weight_bytes[bits] == layer_weight_bytes(layer, workload, bits)


def test_a_width_that_is_not_offered_is_the_nearest_one() -> None:
    net = network()
    space = matar_tf.policy_space(net).with_choices(weights={"second": (3, 5, 7)})
    rows = {one.name: one for one in summary(quantize_model(net, space)).layers}
    # 7, 5 (as near as 3, and wider) and 3 bits of 8 values, beside 16 bytes.
    assert rows["second"].weight_bytes == {8: 23, 4: 21, 2: 19}


def test_what_is_not_annotated_is_float() -> None:
    annotate = tfmot.quantization.keras.quantize_annotate_layer
    inputs = L.Input((None, 4), name="steps")
    x = annotate(L.Dense(3, activation="relu", name="a"))(inputs)
    x = L.LSTM(2, name="b")(x)
    x = annotate(L.Dense(3, name="c"))(L.Dense(5, name="d")(x))
    model = tfmot.quantization.keras.quantize_apply(
        keras.Model(inputs, x), scheme=matar_tf.MatarQuantizeScheme()
    )
    found = summary(model)
    rows = {one.name: one for one in found.layers}
    notes = {name: rows[name].note for name in "abcd"}
    assert notes["b"] == "float: not annotated"
    assert notes["d"] == "float: its input is not quantized"
    assert [rows[name].is_integer for name in "acd"] == [True, False, False]
    # Twelve of one step; 2 * 5 and 5 * 3 in float.
    assert (found.macs, found.integer_share) == (37, 12 / 37)


def test_what_stays_in_float_is_named_so() -> None:
    source = L.Input((6, 4), name="x")
    x = L.Dense(8, name="first")(source)
    x = L.LayerNormalization(name="norm")(x)
    x = L.Dense(3, name="last")(x)
    with pytest.warns(MatarWarning, match="stay in float"):
        found = summary(quantize_model(keras.Model(source, x, name="net")))
    notes = {layer.name: layer.note for layer in found.layers}
    assert [layer.name for layer in found.layers if layer.is_float] == ["norm"]
    assert (notes["norm"], notes["first_dequantize"]) == (
        "stays in float",
        "brings floats to the layers after it",
    )
    assert found.integer_share == 1.0
    assert "100.0% of them with integer kernels, 1 layer in float, " in repr(found)


def test_layers_in_float_count() -> None:
    source = L.Input((6, 4), name="x")
    x = L.Attention(name="scores")([source, L.Dense(4, name="first")(source)])
    x = L.LSTM(5, name="lstm")(x)
    model = keras.Model(source, L.Dense(3, name="last")(x), name="net")
    with pytest.warns(MatarWarning, match="stay in float"):
        found = summary(quantize_model(model))
    rows = {layer.name: layer for layer in found.layers}
    # Scores of 6 x 6 of 4 products, and as many for their means; 6 steps of 4 gates.
    assert rows["scores"].macs == 6 * 6 * 4 * 2
    assert rows["lstm"].macs == 6 * 20 * (4 + 5)
    in_float = rows["scores"].macs + rows["lstm"].macs
    assert found.integer_share == (found.macs - in_float) / found.macs
    # 80 and 100 weights of n bits, a bias and two scales for each of 20 channels.
    assert rows["lstm"].weight_bytes == {
        bits: (80 + 100) * bits // 8 + 4 * 3 * 20 for bits in (8, 4, 2)
    }


def test_is_printed_as_a_table_and_shown_as_html(model: Any) -> None:
    found = summary(model)
    assert matar_tf.summary(MultiBitTrainer(model)) == found
    title, _, header, rule, *rows, _, total = str(found).split("\n")
    assert title == (
        "net: 2,036 MACs, 100.0% of them with integer kernels, 16,807 policies"
    )
    assert header.split()[:4] == ["layer", "kind", "output", "quantized"]
    assert set(rule) == {"-"}
    assert [row.split()[0] for row in rows] == [one.name for one in found.layers]
    assert "2,036" in total
    (row,) = [one for one in rows if one.startswith("second ")]
    assert " ".join(row.split()) == (
        "second Conv2D 4 x 4 x 2 kernel 2..8 128 24 20 18 quantized by 'relu2'"
    )
    page = found._repr_html_()
    assert page.count("<tr>") == len(rows) + 1
    assert "<td>2..8</td>" in page


def test_a_float_model_is_refused() -> None:
    with pytest.raises(ModelError, match=r"make one with matar_tf\.quantize_model"):
        summary(network())
