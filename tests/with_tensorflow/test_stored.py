"""Networks that Keras saved: those of strangers run nothing and read no other file."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fixtures.paths import ROOT
from fixtures.programs import fails

from matar_tf.data import Data
from matar_tf.errors import ModelError
from matar_tf.io import hdf5
from matar_tf.keras import checkpoints, keras, load_float, load_model, stored
from matar_tf.keras._compat import saved_metadata_pb2, tensor_bundle_pb2, tf
from matar_tf.keras.checkpoints import copy_checkpoint
from matar_tf.keras.known_classes import check_classes
from matar_tf.keras.stored import REBUILD_ERRORS

L = keras.layers
FORMS = {"net.h5": "h5", "net.keras": "keras", "folder": "tf"}


class Doubled(L.Layer):
    def call(self, inputs: Any) -> Any:
        return 2 * inputs


def network(middle: Any = None) -> Any:
    x = inputs = L.Input((4, 4, 1), name="image")
    x = L.Conv2D(2, 3, kernel_regularizer="l2", name="conv")(x)
    x = L.Dropout(0.5)(L.Flatten(name="flat")(x))
    if middle is not None:
        x = middle(x)
    return keras.Model(inputs, L.Dense(3, name="logits")(x))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder, model = tmp_path_factory.mktemp("plain"), network()
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, 10)
    model.compile(
        keras.optimizers.Adam(schedule),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    x, y = np.random.default_rng(0).random((8, 4, 4, 1)), np.arange(8) % 3
    model.fit(x, y, verbose=0)
    for name, form in FORMS.items():
        model.save(folder / name, save_format=form)
    return model, folder


@pytest.mark.parametrize("name", FORMS)
def test_a_compiled_network_comes_back(plain: Any, name: str) -> None:
    model, folder = plain
    x, y = np.random.default_rng(1).random((8, 4, 4, 1)), np.arange(8) % 3
    again = load_model(folder / name)
    assert again.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
    again.fit(x, y, verbose=0)
    assert int(again.optimizer.iterations) == 2  # the optimizer's state, too
    assert load_model(str(folder / name), compile=False).optimizer is None


@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.parametrize("of", [keras.optimizers, keras.optimizers.legacy])
@pytest.mark.parametrize("name", ["net.h5", "folder"])  # .keras leaves old ones out
def test_optimizers_of_both_kinds_come_back(
    tmp_path: Path, name: str, of: Any, is_trained: bool
) -> None:
    model = keras.Sequential([L.Input((2,)), L.Dense(1, name="d")])
    model.compile(of.Adam(0.25), "mse")
    x, y = np.ones((2, 2)), np.ones((2, 1))
    if is_trained:
        model.fit(x, y, verbose=0)
    model.save(tmp_path / name, save_format=FORMS[name])
    again = load_model(tmp_path / name)
    assert float(again.optimizer.learning_rate) == 0.25
    for one in (model, again):
        one.fit(x, y, verbose=0)
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])


class TestCodeOfAStranger:
    @pytest.mark.parametrize("name", FORMS)
    def test_a_lambda_is_refused_by_name(self, tmp_path: Path, name: str) -> None:
        mark = tmp_path / "ran"
        code = f"lambda x: (__import__('os').makedirs({str(mark)!r}, 448, True), x)[1]"
        network(L.Lambda(eval(code), name="norm")).save(
            tmp_path / name, save_format=FORMS[name]
        )
        mark.rmdir()
        data = Data(
            name="d",
            x_train=np.zeros((3, 4, 4, 1), np.float32),
            y_train=np.arange(3),
            x_test=np.zeros((3, 4, 4, 1), np.float32),
            y_test=np.arange(3),
        )
        with pytest.raises(ModelError, match="Lambda', which could run foreign code"):
            load_model(tmp_path / name)
        with pytest.raises(ModelError, match="Lambda', which could run foreign code"):
            load_float(tmp_path / name, data)
        assert not mark.exists()

    def test_a_program_says_so(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, mark = tmp_path / "net.h5", tmp_path / "ran"
        code = f"lambda x: (__import__('os').makedirs({str(mark)!r}, 448, True), x)[1]"
        network(L.Lambda(eval(code))).save(path)
        mark.rmdir()
        output = tmp_path / "out.matar"
        line = fails(capsys, "package", model=str(path), output=str(output))
        assert "'Lambda', which could run foreign code" in line
        assert sorted(one.name for one in tmp_path.iterdir()) == ["net.h5"]

    @pytest.mark.parametrize(
        "value",
        [
            {"class_name": "Popen", "module": "subprocess", "config": {}},
            {"class_name": "ReLU", "module": "evil", "config": {}},
            {"class_name": "ReLU", "module": "keras.losses", "config": {}},
            {"class_name": "TFOpLambda", "config": {"function": "io.write_file"}},
            {"class_name": "SlicingOpLambda", "config": {}},
            {"class_name": "ClassMethod", "config": {}},
            {"class_name": "__lambda__", "config": {"value": "4wAA"}},
            {"class_name": "__typespec__", "module": "os", "spec_name": "system"},
            {"class_name": "TypeSpec", "type_spec": "x", "serialized": []},
            {"class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
            {"class_name": "function", "module": "builtins", "config": "exec"},
            {"class_name": "function", "module": "os", "config": "relu"},
            {"class_name": "Lambda", "registered_name": "matar_tf>InputQuantize"},
            {"class_name": "Nowhere", "registered_name": "matar_tf>InputQuantize"},
            {"class_name": ["ReLU"], "config": {}},
            {"class_name": None, "config": {}},
        ],
    )
    def test_what_no_network_may_name(self, value: dict[str, Any]) -> None:
        inside = {"layers": [{"class_name": "Dense", "config": {"activation": value}}]}
        with pytest.raises(ModelError, match="could run foreign code"):
            check_classes(inside, "it")

    @pytest.mark.parametrize(
        "value",
        [
            {"class_name": "ReLU", "module": "keras.layers", "registered_name": None},
            {"class_name": "Custom>Adam", "config": {"learning_rate": 1}},
            {"class_name": "function", "module": "builtins", "config": "relu"},
            {"class_name": "function", "module": "keras.losses", "config": "mse"},
            {"class_name": "__tuple__", "items": [1, 2]},
            {
                "class_name": "WeightQuantizer",
                "module": "matar_tf.keras.quantizers.learned",
                "registered_name": "matar_tf>WeightQuantizer",
            },
        ],
    )
    def test_what_it_may(self, value: dict[str, Any]) -> None:
        check_classes([value], "it")

    def test_levels_are_bounded(self) -> None:
        value: Any = {"class_name": "ReLU"}
        for _ in range(100):
            value = [value]
        check_classes(value[0], "it")
        with pytest.raises(ModelError, match="at most 100 levels in it"):
            check_classes([value], "it")

    @pytest.mark.parametrize("name", FORMS)
    def test_classes_of_the_caller_are_taken(self, tmp_path: Path, name: str) -> None:
        model = network(Doubled(name="doubled"))
        model.save(tmp_path / name, save_format=FORMS[name])
        x = np.random.default_rng(1).random((2, 4, 4, 1))
        with pytest.raises(ModelError, match=r"Doubled.*goes into custom_objects"):
            load_model(tmp_path / name)
        again = load_model(tmp_path / name, {"Doubled": Doubled})
        np.testing.assert_array_equal(
            again.predict(x, verbose=0), model.predict(x, verbose=0)
        )


def link_elsewhere(file: Any, other: Path) -> None:
    file["model_weights/more"] = h5py.ExternalLink(str(other), "secret")


def soft_link(file: Any, other: Path) -> None:
    file["model_weights/more"] = h5py.SoftLink("/model_weights/conv")


def external_storage(file: Any, other: Path) -> None:
    storage = [(str(other), 0, 8)]
    file.create_dataset("more", (8,), "u1", external=storage)


def virtual(file: Any, other: Path) -> None:
    layout = h5py.VirtualLayout((8,), "u1")
    layout[:] = h5py.VirtualSource(str(other), "secret", (8,))
    file.create_virtual_dataset("more", layout)


def compressed(file: Any, other: Path) -> None:
    zeros = np.zeros((1 << 26) + 1, "u1")  # one more than may shrink as it will
    file.create_dataset("more", data=zeros, compression="gzip")


def otherwise_compressed(file: Any, other: Path) -> None:
    file.create_dataset("more", data=np.zeros(9), compression="lzf")


def never_written(file: Any, other: Path) -> None:
    file.create_dataset("more", (1 << 40,), "u1")


def objects(file: Any, other: Path) -> None:
    file["more"] = np.array(["text"], h5py.string_dtype())


def twice(file: Any, other: Path) -> None:
    file["model_weights/more"] = file["model_weights"]


def long_texts(file: Any, other: Path) -> None:
    """A text of 50 kB that one attribute names 20 times, as no writer does."""
    del file["model_weights"].attrs["layer_names"]
    texts = np.array(["Q" * 50_000, *"abcdefghijklmnopqrst"], dtype=object)
    file["model_weights"].attrs.create("layer_names", texts, dtype=h5py.string_dtype())
    path = Path(file.filename)
    file.close()
    content = bytearray(path.read_bytes())
    one = content.index((50_000).to_bytes(4, "little"))
    reference = content[one : one + 16]  # length, address, index
    for place in range(one, one + 16 * 21, 16):
        content[place : place + 16] = reference
    path.write_bytes(content)


def number(file: Any, other: Path) -> None:
    file.attrs["model_config"] = 3


def large_layer(file: Any, other: Path) -> None:
    config = json.loads(file.attrs["model_config"])
    config["config"]["layers"][-1]["config"]["units"] = 1 << 18  # of 8 inputs, 8 MB
    file.attrs["model_config"] = json.dumps(config)


def huge_layer(file: Any, other: Path) -> None:
    config = json.loads(file.attrs["model_config"])
    config["config"]["layers"][-1]["config"]["units"] = 1 << 24
    file.attrs["model_config"] = json.dumps(config)


def deep(file: Any, other: Path) -> None:
    file.create_group("/".join("a" * 40))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link_elsewhere, "got ExternalLink 'more'"),
        (soft_link, "got SoftLink 'more'"),
        (external_storage, "an array of uint8 that is not"),
        (virtual, "an array of uint8 that is not"),
        (compressed, "compressed arrays of 67108865 bytes in .*run h5repack -f NONE"),
        (otherwise_compressed, "in another way than gzip; run h5repack -f NONE"),
        (twice, "got two names of"),
        (long_texts, "and texts of 105"),
        (number, "an attribute of int64"),
        (large_layer, "shape"),
        (huge_layer, "weights take about the .* got more than"),
        (never_written, "arrays of 1099"),
        (objects, "an array of object that is not"),
        (deep, "Group at depth 33"),
    ],
)
def test_hdf5_that_reads_other_files_or_claims_much_is_refused(
    plain: Any, tmp_path: Path, change: Callable[[Any, Path], None], message: str
) -> None:
    _, folder = plain
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.arange(8, dtype="u1")
    path = tmp_path / "net.h5"
    path.write_bytes((folder / "net.h5").read_bytes())
    with h5py.File(path, "a") as file:
        change(file, tmp_path / "other.h5")
    with pytest.raises(ModelError, match=message):
        load_model(path)


def test_weights_in_a_keras_file_are_looked_at(plain: Any, tmp_path: Path) -> None:
    _, folder = plain
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(folder / "net.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = io.BytesIO(members["model.weights.h5"])
    with h5py.File(weights, "a") as file:
        link_elsewhere(file, tmp_path / "other.h5")
    members["model.weights.h5"] = weights.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ModelError, match="got ExternalLink 'more'"):
        load_model(path)


def test_gzip_is_read(plain: Any, tmp_path: Path) -> None:
    model, folder = plain
    path = tmp_path / "net.h5"
    path.write_bytes((folder / "net.h5").read_bytes())
    with h5py.File(path, "a") as file:
        for name in ("conv/conv/kernel:0", "logits/logits/kernel:0"):
            group = file["model_weights"]
            values = group[name][()]
            del group[name]
            group.create_dataset(
                name, data=values, compression="gzip", shuffle=True, fletcher32=True
            )
    for one, other in zip(
        load_model(path).get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("status", ["SIGSEGV", "SIGXCPU", "SIGKILL"])
def test_an_end_of_the_process_that_reads_is_an_error(
    plain: Any, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    ends = f"import os, signal; os.kill(os.getpid(), signal.{status})"
    monkeypatch.setattr(hdf5, "_START", ends)
    shown = "ran out of time" if status == "SIGXCPU" else f"ended by {status}"
    with pytest.raises(ModelError, match=f"one whose reading .*{shown}"):
        load_model(plain[1] / "net.h5")


def test_a_keras_file_is_read_as_it_was_checked(
    plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = plain
    path = tmp_path / "net.keras"
    path.write_bytes((folder / "net.keras").read_bytes())
    check = stored.check_classes

    def check_and_change(*values: Any) -> None:
        check(*values)
        path.write_bytes(b"another file")

    monkeypatch.setattr(stored, "check_classes", check_and_change)
    for one, other in zip(
        load_model(path).get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


class TestVariablesOfASavedModel:
    @pytest.fixture
    def path(self, plain: Any, tmp_path: Path) -> Path:
        return shutil.copytree(plain[1] / "folder", tmp_path / "folder")

    def test_every_bit_of_the_index_may_be_wrong(self, path: Path) -> None:
        index = path / "variables" / "variables.index"
        content = index.read_bytes()
        copies = path / "copies"
        copies.mkdir()
        for place in range(0, len(content), 7):
            changed = bytearray(content)
            changed[place] ^= 0xFF
            index.write_bytes(changed)
            with contextlib.suppress(*REBUILD_ERRORS):
                copy_checkpoint(path / "variables" / "variables", copies / "one")

    def test_values_have_checksums(self, path: Path) -> None:
        (data,) = (path / "variables").glob("variables.data-*")
        content = bytearray(data.read_bytes())
        content[100] ^= 1
        data.write_bytes(content)
        with pytest.raises(ModelError, match="the checksum of"):
            load_model(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"size": -4}, "the place of 'a' is wrong"),
            ({"size": 4, "offset": -4}, "the place of 'a' is wrong"),
            ({"size": 1 << 40}, "the place of 'a' is wrong"),
            ({"size": 4, "shard_id": 1}, "the file or type of 'a' is wrong"),
            ({"size": 4, "dtype": tf.resource.as_datatype_enum}, "the file or type of"),
            ({"size": 4, "dtype": 9999}, "the file or type of 'a' is wrong"),
            ({"size": 8}, "its form .*reshape.* is wrong"),
            ({"size": 4, "crc32c": 1}, "the checksum of 'a' is wrong"),
        ],
    )
    def test_entries_are_checked(
        self, path: Path, change: dict[str, int], message: str
    ) -> None:
        write_index(path, [b"a"], shape=1, **change)
        with pytest.raises(ModelError, match=message) as caught:
            load_model(path)
        assert "checkpoint as Keras saves it at" in str(caught.value)
        assert str(path / "variables") in str(caught.value)

    def test_values_are_numbered(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checkpoints, "_MAX_ENTRIES", 10)
        prefix, copy = path / "variables" / "variables", path / "copy"
        # One block of the index, the header and eight values.
        write_index(path, [b"%d" % number for number in range(8)], size=0, shape=0)
        assert len(copy_checkpoint(prefix, copy)) == 8
        for keys in ([b"%d" % number for number in range(9)], [b"a", b"b"] * 5):
            write_index(path, keys, size=0, shape=0)
            with pytest.raises(ModelError, match="number of values, above 10"):
                copy_checkpoint(prefix, copy)

    def test_names_are_short(self, path: Path) -> None:
        """Though a table need not repeat what a name shares with the one before."""
        prefix, copy = path / "variables" / "variables", path / "copy"
        write_index(path, [b"a" * 1998 + b"%d" % number for number in (10, 11)], size=0)
        assert len(copy_checkpoint(prefix, copy)) == 2
        write_index(path, [b"a" * 1999 + b"%d" % number for number in (10, 11)], size=0)
        with pytest.raises(ModelError, match="a name of more than 2000 bytes"):
            copy_checkpoint(prefix, copy)

    def test_a_pipe_is_not_waited_for(self, path: Path) -> None:
        write_index(path, [b"a"], size=0)
        (data,) = (path / "variables").glob("variables.data-*")
        data.unlink()
        os.mkfifo(data)
        with pytest.raises(ModelError, match="got a device or a pipe; name a file"):
            load_model(path)

    def test_it_may_be_compiled_anew_and_trained(self, path: Path) -> None:
        again = load_model(path, compile=False)
        shutil.rmtree(path)
        again.compile("sgd", "sparse_categorical_crossentropy")
        again.fit(np.zeros((3, 4, 4, 1)), np.arange(3), verbose=0)
        assert int(again.optimizer.iterations) == 1  # begins anew


def varint(number: int) -> bytes:
    found = b""
    while number > 127:
        number, found = number >> 7, found + bytes([number & 127 | 128])
    return found + bytes([number])


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Returns a block of LevelDB's tables, in which names share what they can."""
    found, before = b"", b""
    for key, value in entries:
        pairs = itertools.zip_longest(before, key)
        differ = (place for place, (a, b) in enumerate(pairs) if a != b)
        shared = next(differ, len(key))
        sizes = map(varint, (shared, len(key) - shared, len(value)))
        found, before = found + b"".join(sizes) + key[shared:] + value, key
    return found + bytes(4) + (1).to_bytes(4, "little")


def write_index(path: Path, keys: list[bytes], shape: int = 0, **changes: int) -> None:
    """Writes the index of a SavedModel's variables, each of some numbers in float32."""
    defaults = {"dtype": 1, "crc32c": 0xA282EAD8}  # that of nothing
    entry = tensor_bundle_pb2.BundleEntryProto(**{**defaults, **changes})
    entry.shape.dim.add(size=shape)
    header = tensor_bundle_pb2.BundleHeaderProto(num_shards=1).SerializeToString()
    values = [(key, entry.SerializeToString()) for key in keys]
    first = block([(b"", header), *values])
    second = block([(b"z", varint(0) + varint(len(first)))])
    place = varint(len(first) + 5) + varint(len(second))  # behind type and checksum
    magic = bytes.fromhex("57fb808b247547db")
    (path / "variables" / "variables.index").write_bytes(
        first
        + bytes(5)
        + second
        + bytes(5)
        + (bytes(2) + place).ljust(40, b"\0")
        + magic
    )


@pytest.mark.parametrize(
    "config",
    [
        None,
        [1],
        {"class_name": "MeanSquaredError", "config": {}},
        {"class_name": "ReLU", "config": {"name": "a"}},
        {"class_name": "__tensor__", "config": {"value": [1], "dtype": "float32"}},
    ],
)
@pytest.mark.parametrize("name", FORMS)
def test_configs_of_something_else(
    plain: Any, tmp_path: Path, name: str, config: Any
) -> None:
    path, before = tmp_path / name, plain[1] / name
    if name == "folder":
        shutil.copytree(before, path)
        message = saved_metadata_pb2.SavedMetadata()
        text = json.dumps(config if isinstance(config, dict) else {"config": config})
        message.nodes.add(node_path="root", metadata=text)
        (path / "keras_metadata.pb").write_bytes(message.SerializeToString())
    elif name == "net.keras":
        with zipfile.ZipFile(before) as old, zipfile.ZipFile(path, "w") as new:
            new.writestr("config.json", json.dumps(config))
            new.writestr("model.weights.h5", old.read("model.weights.h5"))
    else:
        shutil.copy(before, path)
        with h5py.File(path, "a") as file:
            file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(ModelError, match=r"^Expected a .*network") as caught:
        load_model(path, compile=False)
    assert "\n" not in str(caught.value)
    assert tempfile.gettempdir() not in str(caught.value).replace(str(path), "")


def test_files_that_are_no_network(plain: Any, tmp_path: Path) -> None:
    _, folder = plain
    content = (folder / "net.h5").read_bytes()
    for name, damaged in {
        "short.h5": content[: len(content) // 2],
        "empty.h5": b"",
        "text.h5": b"hello",
        "text.keras": b"hello",
        "deep.h5": content,
        "number.h5": content,
        "bare.h5": content,
    }.items():
        (tmp_path / name).write_bytes(damaged)
    for name, config in {"deep.h5": "[" * 20_000, "number.h5": 3}.items():
        with h5py.File(tmp_path / name, "a") as file:
            file.attrs["model_config"] = config
    with h5py.File(tmp_path / "bare.h5", "a") as file:
        del file.attrs["model_config"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "keras_metadata.pb").write_bytes(b"\xff" * 9)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "keras_metadata.pb").write_bytes(b"")
    for path in (*tmp_path.iterdir(), tmp_path / "nothing.h5"):
        with pytest.raises(ModelError, match="Expected"):
            load_model(path)
    with pytest.raises(ModelError, match="found nothing; check the path"):
        load_model(tmp_path / "nothing.h5")
    with pytest.raises(ModelError, match=r"at most its weights; save it with model"):
        load_model(tmp_path / "bare.h5")


def test_weights_that_are_not_there(plain: Any, tmp_path: Path) -> None:
    _, folder = plain
    path = tmp_path / "net.keras"
    with (
        zipfile.ZipFile(folder / "net.keras") as archive,
        zipfile.ZipFile(path, "w") as changed,
    ):
        for name in ("metadata.json", "config.json"):
            changed.writestr(name, archive.read(name))
    with pytest.raises(ModelError, match=r"it has no model\.weights\.h5; save it"):
        load_model(path)
    (tmp_path / "net2.keras").mkdir()
    with pytest.raises(ModelError, match=r"got a folder without keras_metadata\.pb"):
        load_model(tmp_path / "net2.keras")


def test_the_shipped_float_networks_are_read() -> None:
    for path in (ROOT / "recipes" / "artifacts").glob("*_float.h5"):
        assert load_model(path, compile=False).count_params() > 10_000
    with h5py.File(ROOT / "tests" / "golden" / "model.h5", "r") as file:
        check_classes(json.loads(file.attrs["model_config"]), "it")
