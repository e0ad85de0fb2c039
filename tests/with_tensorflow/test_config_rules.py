"""Configs of strangers' networks: Keras is not asked for what it is never done with."""

from __future__ import annotations

import contextlib
import copy
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from matar_tf.errors import ModelError
from matar_tf.keras import build_limits, config_rules, keras, load_model
from matar_tf.keras.build_limits import building_within
from matar_tf.keras.config_rules import check_config

L = keras.layers
FORMS = {"net.h5": "h5", "net.keras": "keras", "folder": "tf"}


def augmented() -> Any:
    inputs = L.Input((4, 4, 1))
    first = keras.Sequential([L.RandomFlip(), L.GaussianNoise(0.1)])
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(first(inputs))))


def network_called_twice() -> Any:
    inner = keras.Sequential([L.Dense(4, input_shape=(4,))])
    inputs = L.Input((4,))
    return keras.Model(inputs, L.Add()([inner(inner(inputs)), inputs]))


def siamese() -> Any:
    one = L.Input((4,))
    inner = keras.Model(one, L.Dense(3)(one))
    ends = [L.Input((4,)), L.Input((4,))]
    return keras.Model(ends, L.Subtract()([inner(end) for end in ends]))


def layers_in_turns() -> Any:
    """Two shared layers, each of which waits for the other in every round."""
    x = inputs = L.Input((4,))
    one, other = L.Dense(4), L.Dense(4)
    for _ in range(20):
        x = other(one(x))
    return keras.Model(inputs, x)


def networks_in_networks() -> Any:
    x = inner = L.Input((4,))
    model = keras.Model(inner, L.Dense(4)(x))
    for _ in range(4):
        x = inner = L.Input((4,))
        model = keras.Model(inner, L.ReLU()(model(model(x))))
    return model


def attention() -> Any:
    """A layer that is given tensors by name, and one with the states of another."""
    x = inputs = L.Input((5, 4))
    x = L.MultiHeadAttention(1, 2)(query=x, value=x, key=L.Dense(4)(x))
    _, state, memory = L.LSTM(3, return_state=True)(x)
    x = L.LSTM(3)(inputs, initial_state=[state, memory])
    return keras.Model(inputs, x)


def unrolled() -> Any:
    inputs = L.Input((30, 1))
    return keras.Model(inputs, L.SimpleRNN(2, unroll=True)(inputs))


def of_all_kinds() -> Any:
    x = inputs = L.Input((16, 3))
    x = L.Normalization(mean=[0.0, 1.0, 2.0], variance=2.0)(x)
    x = L.UpSampling1D(2)(L.TimeDistributed(L.Dense(2))(x))
    return keras.Model(inputs, L.Bidirectional(L.GRU(2))(x))


class TestOrdinaryNetworks:
    @pytest.mark.parametrize("name", ["net.h5", "net.keras"])
    @pytest.mark.parametrize(
        "build",
        [
            augmented,
            network_called_twice,
            siamese,
            layers_in_turns,
            networks_in_networks,
            attention,
            unrolled,
            of_all_kinds,
        ],
    )
    def test_they_are_read(
        self, tmp_path: Path, build: Callable[[], Any], name: str
    ) -> None:
        keras.backend.reset_uids()
        model = build()
        model.save(tmp_path / name, save_format=FORMS[name])
        again = load_model(tmp_path / name)
        rng = np.random.default_rng(0)
        x = [rng.random((2, *end.shape[1:]), np.float32) for end in model.inputs]
        x = x if len(x) > 1 else x[0]
        np.testing.assert_array_equal(
            *(one(x, training=False) for one in (again, model))
        )


def config_of(model: Any) -> Any:
    config = {"class_name": "Functional", "config": model.get_config()}
    return json.loads(json.dumps(config))


@pytest.fixture(scope="module")
def plain() -> Any:
    """Input a, layers b and c, one behind the other."""
    x = inputs = L.Input((4,), name="a")
    return config_of(keras.Model(inputs, L.Dense(4, name="c")(L.Dense(4, name="b")(x))))


@pytest.fixture(scope="module")
def nested() -> Any:
    """Input a, and a network m with an input of its own that is called on it."""
    end = L.Input((4,))
    inner = keras.Model(end, L.Dense(4)(end), name="m")
    inputs = L.Input((4,), name="a")
    return config_of(keras.Model(inputs, L.Dense(4, name="c")(inner(inputs))))


def reading(config: Any, layer: int, *calls: Any) -> Any:
    """Returns a config in which a layer reads something else."""
    changed = copy.deepcopy(config)
    changed["config"]["layers"][layer]["inbound_nodes"] = list(calls)
    return changed


class TestWaiting:
    @pytest.mark.parametrize(
        "source",
        [
            ["b", 0, 0, {}],  # itself
            ["c", 0, 0, {}],  # a layer behind it
            ["a", 0, 0, {"mask": ["c", 0, 0]}],
            ["a", 0, 0, {"mask": {"class_name": "__tuple__", "items": ["c", 0, 0]}}],
        ],
    )
    def test_for_each_other(self, plain: Any, source: Any) -> None:
        check_config(plain, "it")
        with pytest.raises(ModelError, match="but 'b' waits for"):
            check_config(reading(plain, 1, [source]), "it")

    @pytest.mark.parametrize("number", [1, -1, 0.5, "0", None, [0]])
    def test_for_a_call_that_is_not_there(self, plain: Any, number: Any) -> None:
        check_config(reading(plain, 2, [["b", 0, 0, {}]]), "it")
        with pytest.raises(ModelError, match="but 'c' waits for"):
            check_config(reading(plain, 2, [["b", number, 0, {}]]), "it")

    def test_for_the_second_call_of_itself(self, plain: Any) -> None:
        source = [["a", 0, 0, {}]]
        check_config(reading(plain, 1, source, [["b", 0, 0, {}]]), "it")
        with pytest.raises(ModelError, match="but 'b' waits for"):
            check_config(reading(plain, 1, [["b", 1, 0, {}]], source), "it")

    def test_networks_count_from_1(self, nested: Any) -> None:
        check_config(reading(nested, 2, [["m", 1, 0, {}]]), "it")
        for number in (0, 2):
            with pytest.raises(ModelError, match="but 'c' waits for"):
                check_config(reading(nested, 2, [["m", number, 0, {}]]), "it")

    def test_a_network_without_an_input_counts_from_0_or_1(self, nested: Any) -> None:
        kind = {"class_name": "Sequential", "config": {"name": "m", "layers": []}}
        nested = copy.deepcopy(nested)
        nested["config"]["layers"][1].update(kind)
        twice = reading(nested, 1, [["a", 0, 0, {}]], [["a", 0, 0, {}]])
        check_config(reading(twice, 2, [["m", 1, 0, {}]]), "it")
        for number in (0, 2):
            with pytest.raises(ModelError, match="but 'c' waits for"):
                check_config(reading(twice, 2, [["m", number, 0, {}]]), "it")

    def test_rounds_are_bounded(self) -> None:
        def backwards(number: int) -> Any:
            names = [f"l{place}" for place in range(number)]
            reads = zip(names, [None, *names[:-1]], strict=True)
            layers = [
                {
                    "class_name": "InputLayer" if read is None else "ReLU",
                    "name": name,
                    "inbound_nodes": [] if read is None else [[[read, 0, 0, {}]]],
                }
                for name, read in reads
            ]
            return {"layers": layers[::-1]}

        check_config(backwards(100), "it")  # in 5,000 attempts
        with pytest.raises(ModelError, match="that is far behind it"):
            check_config(backwards(300), "it")  # 45,000, more than 13,000

    def test_a_layer_under_two_names(self, plain: Any) -> None:
        for key, value in {"name": "b", "shared_object_id": 3}.items():
            changed = copy.deepcopy(plain)
            changed["config"]["layers"][1]["shared_object_id"] = 3
            check_config(changed, "it")
            changed["config"]["layers"][2][key] = value
            with pytest.raises(ModelError, match="a name of their own"):
                check_config(changed, "it")

    def test_what_is_no_list(self, plain: Any) -> None:
        changed = copy.deepcopy(plain)
        layers = changed["config"]["layers"]
        layers[1]["inbound_nodes"] = {"class_name": "__tuple__", "items": []}
        with pytest.raises(ModelError, match="a list of the calls of 'b'"):
            check_config(changed, "it")
        changed["config"]["layers"] = {"class_name": "__tuple__", "items": layers}
        with pytest.raises(ModelError, match="a list of layers"):
            check_config(changed, "it")
        check_config({"class_name": "Own", "config": {"layers": 3}}, "it")

    def test_no_file_is_waited_for(self, tmp_path: Path, plain: Any) -> None:
        """The whole way, of each form; Keras would never end."""
        x = inputs = L.Input((4,), name="a")
        model = keras.Model(inputs, L.Dense(4, name="c")(L.Dense(4, name="b")(x)))
        model.save(tmp_path / "net.h5")
        with h5py.File(tmp_path / "net.h5", "a") as file:
            file.attrs["model_config"] = file.attrs["model_config"].replace(
                '[["a", 0, 0, {}]]', '[["b", 0, 0, {}]]'
            )
        model.save(tmp_path / "net.keras")
        with zipfile.ZipFile(tmp_path / "net.keras") as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content.replace(b'[["a", 0', b'[["b", 0'))
        model.save(tmp_path / "folder", save_format="tf")
        metadata = tmp_path / "folder" / "keras_metadata.pb"
        content = metadata.read_bytes()
        metadata.write_bytes(content.replace(b'[["a", 0', b'[["b", 0'))
        for name in FORMS:
            with pytest.raises(ModelError, match="but 'b' waits for"):
                load_model(tmp_path / name)


class TestNumbers:
    @pytest.mark.parametrize("key", config_rules._MAX_COUNTS)
    def test_what_is_listed_one_by_one(self, key: str) -> None:
        most = config_rules._MAX_COUNTS[key]
        check_config({"config": {key: most, "num_classes": None}}, "it")
        with pytest.raises(ModelError, match=f"at most {most} for '{key}' in it"):
            check_config({"config": {key: most + 1}}, "it")

    def test_a_metric_of_a_stranger(self, tmp_path: Path) -> None:
        model = keras.Sequential([L.Input((2,)), L.Dense(1)])
        model.compile("sgd", "mse", metrics=[keras.metrics.AUC(7)])
        model.save(tmp_path / "net.h5")
        with h5py.File(tmp_path / "net.h5", "a") as file:
            text = file.attrs["training_config"]
            assert '"num_thresholds": 7' in text
            file.attrs["training_config"] = text.replace(": 7", ": 700000000")
        with pytest.raises(ModelError, match="got 700000000"):
            load_model(tmp_path / "net.h5")

    def test_layers(self) -> None:
        check_config({"layers": [{}] * 5000}, "it")
        with pytest.raises(ModelError, match="5000 layers in it, got 5001"):
            check_config([{"layers": [{}] * 2500}, {"layers": [{}] * 2501}], "it")

    @pytest.mark.parametrize("kind", ["LocallyConnected1D", "LocallyConnected2D"])
    def test_layers_that_are_built_place_by_place(self, kind: str) -> None:
        with pytest.raises(ModelError, match="use a convolution"):
            check_config({"layers": [{"class_name": kind}]}, "it")

    def test_the_shape_that_a_normalization_is_built_for(self) -> None:
        def built(kind: str, *shape: int) -> Any:
            inner = {"layer": {"class_name": kind}}
            return {"config": inner, "build_config": {"input_shape": [None, *shape]}}

        check_config(built("Normalization", 4096, 4096), "it")
        check_config(built("Dense", 4096, 4097), "it")
        for shape in [(4096, 4097), (10**19,) * 40]:
            with pytest.raises(ModelError, match="a normalization of at most 16777216"):
                check_config(built("Normalization", *shape), "it")


def refused_if(is_refused: bool) -> Any:
    if is_refused:
        return pytest.raises(ModelError, match="matar_tf does not load it")
    return contextlib.nullcontext()


class TestBuilding:
    """Boundaries by small limits, so that nothing large is made."""

    def test_calls_are_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(build_limits, "_FREE_STEPS", 10)
        inputs, layer = L.Input((4,)), L.ReLU()

        def call(number: int) -> None:
            for _ in range(number):
                layer(inputs)

        with building_within(0, 40, "it"):
            call(12)  # ten are free, and 40 characters list two
        with (
            pytest.raises(ModelError, match="at most 12 times, got more calls"),
            building_within(0, 40, "it"),
        ):
            call(13)
        call(99)  # nothing is counted behind the block

    def test_calls_inside_are_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A network counts itself, its three layers and what is wrapped."""
        monkeypatch.setattr(build_limits, "_FREE_STEPS", 5)
        x = inner = L.Input((3, 4))
        x = L.ReLU()(L.ReLU()(L.TimeDistributed(L.ReLU())(x)))
        model, inputs = keras.Model(inner, x), L.Input((3, 4))
        for most, is_enough in ((0, False), (20, True)):
            with refused_if(not is_enough), building_within(0, most, "it"):
                model(inputs)

    @pytest.mark.parametrize(
        ("layer", "num_places"),
        [
            (L.UpSampling1D(3), 30),
            (L.UpSampling3D((1, 2, 5)), 50),
            (L.SimpleRNN(1, unroll=True), 10),
            (L.SimpleRNN(1), 0),
        ],
    )
    def test_places_are_counted(
        self, monkeypatch: pytest.MonkeyPatch, layer: Any, num_places: int
    ) -> None:
        shape = (10, 2, 2, 1) if isinstance(layer, L.UpSampling3D) else (10, 1)
        inputs = L.Input(shape)
        monkeypatch.setattr(build_limits, "_MAX_PLACES", num_places)
        with building_within(1 << 20, 0, "it"):
            layer(inputs)
        if num_places:
            monkeypatch.setattr(build_limits, "_MAX_PLACES", num_places - 1)
            with (
                pytest.raises(ModelError, match=f"for {num_places}; matar_tf does"),
                building_within(1 << 20, 0, "it"),
            ):
                layer(inputs)

    def test_constants_are_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(build_limits, "MAX_CONSTANTS", 24)
        for number, is_enough in ((6, True), (7, False)):
            inputs = L.Input((4, number))
            with refused_if(not is_enough), building_within(0, 0, "it"):
                L.Normalization(mean=0.0, variance=1.0)(inputs)
            with building_within(1 << 10, 0, "it"):
                L.Normalization()(inputs)  # of variables, which are counted elsewhere

    def test_networks_of_networks_end(self, tmp_path: Path) -> None:
        """Eight calls each, six deep, in four kilobytes: 300,000 calls."""
        end = L.Input((4,))
        model = keras.Model(end, L.ReLU()(end), name="m")
        config = config_of(model)
        for depth in range(6):
            name = f"i{depth}"
            first = {**config["config"]["layers"][0], "name": name}
            first["config"] = {**first["config"], "name": name}
            inner = {**config, "name": config["config"]["name"]}
            reads = [[[name, 0, 0, {}]]]
            reads += [[[inner["name"], place, 0, {}]] for place in range(1, 8)]
            inner["inbound_nodes"] = reads
            outer = {
                "name": f"m{depth}",
                "layers": [first, inner],
                "input_layers": [[name, 0, 0]],
                "output_layers": [[inner["name"], 8, 0]],
            }
            config = {"class_name": "Functional", "config": outer}
        model.save(tmp_path / "net.h5")
        with h5py.File(tmp_path / "net.h5", "a") as file:
            file.attrs["model_config"] = json.dumps(config)
        with pytest.raises(ModelError, match="of networks in networks"):
            load_model(tmp_path / "net.h5")
