"""Rows and bars of tools/benchmark.py zoo and zoo_size: by hand, and of a network."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from fixtures.nets import packaged
from fixtures.programs import call, fails

from matar_tf.data import load_data
from matar_tf.errors import ModelError
from matar_tf.keras import keras
from matar_tf.tflite._schema import op_name, parse_model, schema, write_model
from matar_tf.tflite.build import ModelBuilder
from tools.benchmarks import zoo
from tools.benchmarks.bars import Bar
from tools.benchmarks.zoo import compare_outputs, integer_share, measure_network
from tools.benchmarks.zoo_networks import NETWORKS, Network
from tools.benchmarks.zoo_rows import Agreement, Row, zoo_bars
from tools.benchmarks.zoo_samples import (
    SOURCES,
    build_float,
    digest_of,
    digits_for,
    kinds_of,
    random_samples,
    samples_for,
)
from tools.benchmarks.zoo_size import at_most

GOOD = Agreement(
    within=99, values=100, same=198, decided=200, rows=300, off=0, tensors=5
)
ROW = Row(
    name="net",
    kinds=("Conv2D", "relu"),
    macs=(1000, 1000),
    front=1,
    moved=0.0,
    file_bytes=4321,
    seconds={"quantize": 1.5, "package": 0.25, "file": 0.012},
    agreements={"w8a8": GOOD},
)


def small_net(k: Any) -> Any:
    inputs = k.layers.Input((8, 8, 3))
    x = k.layers.Conv2D(8, 3, padding="same")(inputs)
    x = k.layers.ReLU()(k.layers.BatchNormalization()(x))
    x = k.layers.GlobalAveragePooling2D()(x)
    return k.Model(inputs, k.layers.Dense(4, activation="softmax")(x))


def named_mlp(k: Any) -> Any:
    """A network whose layers have the same names however often it is built."""
    inputs = k.layers.Input((8,), name="samples")
    return k.Model(inputs, k.layers.Dense(4, name="dense")(inputs), name="mlp")


def with_agreement(**changes: int) -> Row:
    return replace(ROW, agreements={"w8a8": replace(GOOD, **changes)})


class TestBars:
    def held(self, *rows: Row) -> list[bool]:
        named = [replace(row, name=str(index)) for index, row in enumerate(rows)]
        return [bar.held for bar in zoo_bars(named)]

    def test_all_at_their_limit_are_held(self) -> None:
        assert self.held(ROW, ROW) == [True] * 9

    @pytest.mark.parametrize(
        ("row", "short"),
        [
            (replace(ROW, failure="refused"), 0),
            (replace(ROW, moved=1e-9), 1),
            (replace(ROW, off=1.1e-5), 2),
            (replace(ROW, front=0), 3),
            (replace(ROW, macs=(1000, 999)), 4),
            (replace(ROW, macs=(1000, 899), least_share=0.9), 4),
            (replace(ROW, floats=1), 4),
            (with_agreement(within=98), 5),
            (with_agreement(same=197), 6),
            (with_agreement(decided=199, same=199), 7),
            (with_agreement(off=1), 8),
        ],
    )
    def test_each_falls_short_by_one_row(self, row: Row, short: int) -> None:
        assert self.held(ROW, row) == [index != short for index in range(9)]

    def test_networks_without_classes_have_no_share_of_them(self) -> None:
        row = with_agreement(rows=0, decided=0, same=0)
        assert self.held(ROW, row) == [True] * 9
        assert self.held(row) == [True] * 7

    def test_a_network_may_have_float_layers(self) -> None:
        row = replace(ROW, macs=(1000, 900), least_share=0.9, floats=5, off=1e-5)
        assert self.held(ROW, row) == [True] * 9

    def test_none_that_ended(self) -> None:
        assert self.held(replace(ROW, failure="refused")) == [False]

    @pytest.mark.parametrize(("value", "held"), [(1.5, True), (1.51, False)])
    def test_a_size(self, value: float, held: bool) -> None:
        expected = Bar(name="x", figure=f"{value:g} GB", limit="at most 1.5", held=held)
        assert at_most("x", value, 1.5, "GB") == expected


class TestRows:
    def test_text(self) -> None:
        first, second = ROW.to_text().splitlines()
        assert first.split(maxsplit=4) == [
            *("net", "100%", "4", "1.5/0.25/0.012", "Conv2D, relu")
        ]
        assert second.split(maxsplit=1)[1] == (
            "99.00% within a level, same class 198 of 200 (of 300), simulator 5 of 5 "
            "tensors"
        )

    def test_that_of_a_failure_is_its_sentence(self) -> None:
        row = Row(name="net", failure="Expected another.")
        assert row.to_text().split(maxsplit=1) == ["net", "Expected another."]

    def test_outputs_are_compared_in_levels(self) -> None:
        # Step 0.1. By rows: equal; one level; two; undecided, at two levels.
        expected = np.array([[0.9, 0.1], [0.2, 0.6], [0.5, 0.2], [0.4, 0.2]])
        outputs = np.array([[0.9, 0.1], [0.2, 0.7], [0.2, 0.4], [0.2, 0.4]])
        assert compare_outputs(outputs, expected, 0.1, is_classifier=True) == {
            "within": 4,
            "values": 8,
            "rows": 4,
            "decided": 3,
            "same": 2,
        }
        found = compare_outputs(outputs, expected, 0.1, is_classifier=False)
        assert found == {"within": 4, "values": 8}

    def test_macs_of_a_file(self) -> None:
        artifact = packaged("residual_bn")
        content = ModelBuilder(artifact).build(artifact.space.named("w8a8"))
        total = sum(layer.macs for layer in artifact.workload.layers)
        assert integer_share(content) == (total, 0)
        model = parse_model(content)
        graph = model.subgraphs[0]
        first = next(one for one in graph.operators if op_name(model, one) == "CONV_2D")
        graph.tensors[first.outputs[0]].type = schema.TensorType.FLOAT32
        macs, floats = integer_share(write_model(model))
        assert floats == 1
        assert 0 < macs < total


class TestNetworks:
    def test_samples_span_their_range_and_differ(self) -> None:
        network = Network(build=small_net, low=0.0, high=255.0)
        samples = random_samples((8, 8, 3), 64, network, seed=0)
        assert samples.shape == (64, 8, 8, 3)
        assert samples.dtype == np.float32
        assert 0.0 <= samples.min() < 20.0
        assert 235.0 < samples.max() <= 255.0
        assert samples.mean(axis=(1, 2)).std(axis=0).min() > 20.0

    def test_statistics_and_outputs_suit_the_samples(self) -> None:
        network = Network(build=small_net)
        samples = random_samples((8, 8, 3), 32, network, seed=0)
        model, off = build_float(network, samples, seed=0)
        assert off == 0.0
        norm, dense = model.layers[2], model.layers[-1]
        values = np.asarray(keras.Model(model.input, norm.output)(samples))
        np.testing.assert_allclose(values.mean(axis=(0, 1, 2)), 0.0, atol=1e-4)
        np.testing.assert_allclose(values.std(axis=(0, 1, 2)), 1.0, atol=0.05)
        assert norm.momentum == 0.99
        assert dense.activation is keras.activations.softmax
        values = np.log(np.asarray(model(samples)))
        values -= values.mean(axis=1, keepdims=True)
        assert 1.5 < values.std() < 2.5
        assert kinds_of(model) == (
            *("BatchNormalization", "Conv2D", "Dense"),
            *("GlobalAveragePooling2D", "ReLU"),
        )

    @pytest.mark.parametrize("source", SOURCES[1:])
    def test_a_network_of_keras_3_is_the_same_here(self, source: str) -> None:
        network = Network(build=small_net)
        samples = random_samples((8, 8, 3), 32, network, seed=0)
        model, off = build_float(network, samples, seed=0, source=source)
        assert isinstance(model, keras.Model)
        assert 0.0 <= off < 1e-5

    def test_samples_of_several_inputs_and_of_numbers(self) -> None:
        both = samples_for(
            NETWORKS["two_inputs"].build(keras), 5, NETWORKS["two_inputs"], seed=0
        )
        assert isinstance(both, dict)
        assert {name: one.shape for name, one in both.items()} == {
            "image": (5, 32, 32, 3),
            "table": (5, 12),
        }
        words = samples_for(NETWORKS["text"].build(keras), 5, NETWORKS["text"], seed=0)
        assert isinstance(words, np.ndarray)
        assert words.dtype == np.int32
        assert 0 <= words.min() < words.max() < 1000

    def test_digits_in_the_size_and_range_of_a_network(self) -> None:
        network = Network(
            build=lambda k: k.Sequential([k.layers.Input((20, 16, 3))]),
            low=-1.0,
            high=1.0,
        )
        images, labels = digits_for(network.build(keras), network)
        assert images.shape == (len(labels), 20, 16, 3)
        assert (images.min(), images.max()) == (-1.0, 1.0)
        expected = 2 * load_data("digits").training()[0] - 1
        np.testing.assert_array_equal(images[:, 1::3, ::2, 2], expected[:, :7, :, 0])

    @pytest.mark.slow
    def test_one_from_float_to_file(self) -> None:
        row = measure_network("small", Network(build=small_net), seed=0, num_samples=64)
        assert row.macs == (8 * 8 * 8 * 27 + 8 * 4,) * 2
        assert list(row.seconds) == ["quantize", "package", "file"]
        assert list(row.agreements) == ["w8a8", "w4a8", "mixed"]
        # 64 samples are too few to decide 200.
        held = [bar.held for bar in zoo_bars([row])]
        assert held == [True] * 7 + [False, True]
        assert row.front > 0
        assert "Dense" in row.to_text()


class TestSuite:
    def test_a_failure_is_a_row_and_the_next_one_runs(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = json.dumps(asdict(ROW))
        child = (
            "import sys, pathlib\n"
            "if sys.argv[1] == 'mlp': raise ValueError('no such thing')\n"
            f"pathlib.Path(sys.argv[3]).write_text({row!r})"
        )
        monkeypatch.setattr(zoo, "_CHILD", child)
        assert call("benchmark", "zoo", only="mlp,tcn") == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[2].split(maxsplit=1) == [
            *("mlp", "status 1: ValueError: no such thing")
        ]
        assert lines[3:5] == ROW.to_text().splitlines()
        assert "1 of 2 (bar: all)" in lines[5]

    def test_a_refusal_is_written_as_the_row(
        self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any, **__: Any) -> Row:
            raise ModelError("Expected another network.")

        monkeypatch.setattr(zoo, "measure_network", refuse)
        zoo.measure_by_name("mlp", 0, str(tmp_path / "row.json"), SOURCES[0])
        assert "Expected another network." in (tmp_path / "row.json").read_text()

    def test_the_same_layers_and_weights_are_measured_once(self) -> None:
        network = replace(NETWORKS["mlp"], build=named_mlp)
        samples = samples_for(network.build(keras), 64, network, seed=0)
        made, _ = build_float(network, samples, seed=0)
        known = replace(ROW, name="other", made=digest_of(made))
        found = measure_network("mlp", network, seed=0, num_samples=64, known=known)
        assert found == replace(known, name="mlp", same_as="other")
        assert found.to_text().endswith("the same layers and weights as other")

        weights = made.get_weights()
        weights[0].flat[0] += 1.0
        made.set_weights(weights)
        assert digest_of(made) != known.made

    def test_unknown_names_are_refused(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        error = fails(capsys, "benchmark", "zoo", only="resnet50")
        assert "ResNet50" in error
        assert len(NETWORKS) == 37

    def test_unknown_sources_are_refused(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        error = fails(capsys, "benchmark", "zoo", only="mlp", sources="keras")
        assert "tf_keras" in error
