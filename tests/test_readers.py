"""Files of strangers that ask for more than they hold: both sides of each limit."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.paths import DATA, TARGETS

from matar_tf import artifact as artifact_module
from matar_tf.artifact import read_artifact, write_artifact
from matar_tf.data import load_data
from matar_tf.errors import (
    ArtifactError,
    DataError,
    ExportError,
    PolicyError,
    SearchError,
    TargetError,
)
from matar_tf.io import archive, json_reader
from matar_tf.io.archive import (
    array_names,
    check_arrays,
    open_members,
    parse_arrays,
    read_array,
    read_members,
)
from matar_tf.io.files import read_at_most
from matar_tf.io.json_reader import JsonReader
from matar_tf.policy import read_policy
from matar_tf.run.record import read_record
from matar_tf.run.report import read_report
from matar_tf.targets import latency_table, load_target, loader
from matar_tf.targets.latency_table import read_latency_table
from matar_tf.tflite.latency import LatencyCache

MIB = 1 << 20


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def npy_of(header: str, content: bytes = b"", version: int = 1) -> bytes:
    """The bytes of an array with a header of one's own."""
    line = header.encode("latin1") + b"\n"
    length = len(line).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + line + content


def array_of(content: bytes) -> np.ndarray:
    """The array of the bytes of an ``.npy`` file."""
    return read_array(io.BytesIO(content), len(content), "it")


class TestZip:
    @pytest.mark.parametrize(
        ("method", "is_read"),
        [
            (zipfile.ZIP_STORED, True),
            (zipfile.ZIP_DEFLATED, True),
            (zipfile.ZIP_BZIP2, False),
            (zipfile.ZIP_LZMA, False),
        ],
    )
    def test_members_are_stored_or_deflated(self, method: int, is_read: bool) -> None:
        content = zip_of({"a": b"abc"}, method)
        if is_read:
            assert read_members(content, "it", max_bytes=3) == {"a": b"abc"}
        else:
            with pytest.raises(ArtifactError, match=f"got compression {method}; pack"):
                read_members(content, "it", max_bytes=3)

    def test_what_is_packed_too_densely(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(archive, "_FREE_BYTES", 0)
        content = zip_of({"a": b"x" * 5000})
        ratio = 5000 // len(content) + 1
        monkeypatch.setattr(archive, "_MAX_RATIO", ratio)
        assert len(read_members(content, "it", max_bytes=5000)["a"]) == 5000
        monkeypatch.setattr(archive, "_MAX_RATIO", ratio - 1)
        with pytest.raises(ArtifactError, match=f"at most {ratio - 1} times the"):
            read_members(content, "it", max_bytes=5000)
        monkeypatch.setattr(archive, "_FREE_BYTES", 5000)
        assert read_members(content, "it", max_bytes=5000)

    def test_no_more_is_unpacked_than_the_directory_states(self) -> None:
        """The member holds 64 MiB, of which the directory says that they are 10."""
        packed = zlib.compressobj(wbits=-15)
        body = packed.compress(bytes(64 * MIB)) + packed.flush()
        content = bytearray(zip_of({"a": bytes(10)}))
        start = content.index(b"PK\x01\x02")
        old = int.from_bytes(content[start + 20 : start + 24], "little")
        content[31 : 31 + old] = body  # after a header of 30 bytes and the name
        grown = start + len(body) - old
        content[grown + 20 : grown + 24] = len(body).to_bytes(4, "little")
        content[-6:-2] = grown.to_bytes(4, "little")
        tracemalloc.start()
        members = read_members(bytes(content), "it", max_bytes=10)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert members == {"a": bytes(10)}
        assert peak < 4 * MIB

    def test_a_directory_is_measured_before_it_is_read(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = zip_of({f"{number}": b"" for number in range(10)})
        taken = 10 * (46 + 1)  # of each member, and its name
        monkeypatch.setattr(archive, "_MAX_DIRECTORY_BYTES", taken)
        assert len(array_names(content, "it")) == 10
        monkeypatch.setattr(archive, "_MAX_DIRECTORY_BYTES", taken - 1)
        with pytest.raises(
            ArtifactError, match=f"directory takes {taken} bytes, more than {taken - 1}"
        ):
            array_names(content, "it")

    def test_members_are_read_when_they_are_asked_for(self) -> None:
        content = bytearray(zip_of({"a": b"abc", "b": b"xyz"}, zipfile.ZIP_STORED))
        content[content.index(b"xyz")] ^= 1
        with open_members(bytes(content), "it", max_bytes=6) as members:
            assert (members.sizes, members.num_packed) == (
                {"a": 3, "b": 3},
                len(content),
            )
            assert members.read("a") == b"abc"
            with pytest.raises(ArtifactError, match=r"damaged .*CRC-32 for file 'b'"):
                members.read("b")

    def test_arrays_within_members_are_counted_without_unpacking(self) -> None:
        inner = zip_of({"a.npy": bytes(100), "b.npy": bytes(50)})
        members = {"x.npz": inner, "y.npz": zip_of({"c.npy": bytes(7)}), "z": b"1"}
        check_arrays(members, "it", max_bytes=157, num_packed=9)
        with pytest.raises(ArtifactError, match="156 bytes in the arrays of it, got 1"):
            check_arrays(members, "it", max_bytes=156, num_packed=9)

    def test_packed_twice_counts_from_what_lies_on_the_disk(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(archive, "_FREE_BYTES", 0)
        members = {"x.npz": zip_of({"a.npy": bytes(1000)})}
        check_arrays(members, "it", max_bytes=9999, num_packed=50)
        with pytest.raises(ArtifactError, match="at most 980 bytes"):
            check_arrays(members, "it", max_bytes=9999, num_packed=49)

    @pytest.mark.parametrize("name", ["a", "a.matar"])
    def test_a_network_justifies_its_arrays(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        artifact = read_artifact(DATA / "dense.matar")
        num_bytes = len(artifact.template)
        with zipfile.ZipFile(io.BytesIO(artifact.parameters.to_npz())) as file:
            taken = sum(one.file_size for one in file.infolist())
        monkeypatch.setattr(artifact_module, "_ARRAY_BYTES", 1)
        monkeypatch.setattr(artifact_module, "_FREE_ARRAY_BYTES", taken - num_bytes)
        write_artifact(artifact, tmp_path / name)
        read_artifact(tmp_path / name)
        monkeypatch.setattr(artifact_module, "_FREE_ARRAY_BYTES", taken - num_bytes - 1)
        for work in (read_artifact, lambda path: write_artifact(artifact, path / "b")):
            with pytest.raises(ArtifactError, match=f"at most {taken - 1} bytes in"):
                work(tmp_path / name if work is read_artifact else tmp_path)

    def test_what_a_template_does_not_justify_is_not_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "net"
        write_artifact(read_artifact(DATA / "digits_net.matar"), path)
        sizes = {one.name: one.stat().st_size for one in path.iterdir()}
        monkeypatch.setattr(artifact_module, "_ARRAY_BYTES", 1)
        monkeypatch.setattr(artifact_module, "_FREE_ARRAY_BYTES", 2 * MIB)
        beside = sizes["network.json"] + sizes["parameters.npz"]
        most = sizes["template.tflite"] + 2 * MIB + (1 << 24) - beside
        os.truncate(path / "network.npz", most)
        with pytest.raises(ArtifactError, match=r"'network.npz' of .* SHA-256"):
            read_artifact(path)
        os.truncate(path / "network.npz", most + 1)
        tracemalloc.start()
        with pytest.raises(ArtifactError, match=r"bytes in .*net beside its template"):
            read_artifact(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * MIB

    @pytest.mark.parametrize(
        ("limit", "member"),
        [
            ("_MAX_TEMPLATE_BYTES", "template.tflite"),
            ("MAX_JSON_BYTES", "manifest.json"),
        ],
    )
    def test_what_justifies_has_a_limit_of_its_own(
        self, limit: str, member: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "net"
        write_artifact(read_artifact(DATA / "digits_net.matar"), path)
        size = (path / member).stat().st_size
        monkeypatch.setattr(artifact_module, limit, size)
        read_artifact(path)
        monkeypatch.setattr(artifact_module, limit, size - 1)
        with pytest.raises(
            ArtifactError, match=f"at most {size - 1} bytes in {member}"
        ):
            read_artifact(path)


class TestArray:
    @pytest.mark.parametrize(
        "header",
        [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }",
            "{'descr': '|V4', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1, }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': ('a',), }",
            "{'descr': '<f4', 'shape': (1,), }",
            "  {'descr'\n {",
            "(" * 900,
            "-" * 900 + "1",
            "",
        ],
    )
    def test_headers_that_promise_something_else(self, header: str) -> None:
        with pytest.raises(ArtifactError, match="array of numbers in it, but"):
            array_of(npy_of(header, bytes(4)))

    @pytest.mark.parametrize("version", [1, 2])
    def test_the_length_of_a_header_is_bounded(self, version: int) -> None:
        header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"
        content = np.array([2.5], np.float32).tobytes()
        longest = header.ljust(archive._MAX_HEADER_CHARS - 1)  # and the end of line
        assert array_of(npy_of(longest, content, version)).tolist() == [2.5]
        with pytest.raises(ArtifactError, match="large and may not be safe"):
            array_of(npy_of(longest + " ", content, version))

    @pytest.mark.parametrize(
        "array",
        [
            np.arange(6, dtype=np.float32).reshape(2, 3),
            np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
            np.array(7, np.int64),
            np.zeros((0, 3), np.uint8),
            np.array([True, False]),
            np.array([1.5], ">f8"),
        ],
    )
    def test_arrays_come_back_as_they_were(self, array: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, array)
        found = array_of(buffer.getvalue())
        np.testing.assert_array_equal(found, array)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        found[...] = 0  # nobody else's memory

    def test_only_the_arrays_that_are_asked_for(self) -> None:
        header = "{'descr': '<i1', 'fortran_order': False, 'shape': (1,)}"
        one, other = npy_of(header, b"\5"), npy_of(header, b"\6")
        content = zip_of({"a.npy": one, "b.npy": other, "c.npy": b"no array"})
        found = parse_arrays(content, "it", keys=["b", "d"])
        assert {key: value.tolist() for key, value in found.items()} == {"b": [6]}
        with pytest.raises(ArtifactError, match=r"'c\.npy' of it"):
            parse_arrays(content, "it")

    def test_data_that_unpack_to_too_much(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a.npz"
        np.savez_compressed(path, x_test=np.zeros((50, 500)), y_test=np.arange(50) % 2)
        assert len(load_data(str(path)).x_test) == 50
        monkeypatch.setattr(archive, "_FREE_BYTES", 0)
        with pytest.raises(DataError, match="them without compression"):
            load_data(str(path))


class TestJson:
    READER = JsonReader(SearchError)

    @pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
    def test_depth(self, opened: str, closed: str) -> None:
        most = json_reader._MAX_DEPTH
        assert self.READER.parse(opened * most + "1" + closed * most, "it")
        with pytest.raises(SearchError, match="nested too deeply"):
            self.READER.parse(opened * (most + 1) + "1" + closed * (most + 1), "it")

    def test_size(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.json").write_text("[1, 2]")
        monkeypatch.setattr(json_reader, "MAX_JSON_BYTES", 6)
        assert self.READER.read(tmp_path / "a.json") == [1, 2]
        monkeypatch.setattr(json_reader, "MAX_JSON_BYTES", 5)
        with pytest.raises(SearchError, match=r"at most 5 bytes at .*a\.json"):
            self.READER.read(tmp_path / "a.json")
        with pytest.raises(SearchError, match="at most 5 bytes of JSON in it, got 6"):
            self.READER.parse(b"[1, 2]", "it")

    def test_keys_are_short_and_printable(self) -> None:
        longest = "x" * 500
        assert self.READER.parse(json.dumps({longest: 1}), "it") == {longest: 1}
        for key in (longest + "x", "\x1b[31m", "a\nb", "\ud800"):
            with pytest.raises(
                SearchError, match="too long, or cannot be printed"
            ) as it:
                self.READER.parse(json.dumps({key: 1}), "it")
            assert len(str(it.value)) < 400
            assert str(it.value).isprintable()

    def test_numbers_fit_into_floats(self) -> None:
        assert self.READER.parse(f"[{2**64 - 1}, 1e308]", "it") == [2**64 - 1, 1e308]
        with pytest.raises(SearchError, match="a whole number has 21 digits"):
            self.READER.parse("[" + "9" * 21 + "]", "it")
        with pytest.raises(SearchError, match="-1e309 is beyond all numbers"):
            self.READER.parse("[-1e309]", "it")

    def test_half_a_character_is_refused(self) -> None:
        assert self.READER.parse(r'["\ud83d\ude00"]', "it") == ["\U0001f600"]
        with pytest.raises(SearchError, match="surrogates not allowed"):
            self.READER.parse(r'[["\ud83d"]]', "it")

    def test_a_file_without_an_end(self) -> None:
        with pytest.raises(SearchError, match="/dev/zero, got a device"):
            read_at_most(Path("/dev/zero"), 9, SearchError)


class TestToml:
    @staticmethod
    def load(folder: Path, text: str) -> Any:
        (folder / "a.toml").write_text(text, encoding="utf-8")
        return load_target(folder / "a.toml")

    def test_dotted_keys(self, tmp_path: Path) -> None:
        most = loader._MAX_DOTS
        with pytest.raises(TargetError, match="Unknown key a"):
            self.load(tmp_path, "a" + ".a" * most + " = 1")
        with pytest.raises(
            TargetError, match=f"at most {most} dots .* got {most + 1};"
        ):
            self.load(tmp_path, "a" + ".a" * (most + 1) + " = 1")
        with pytest.raises(TargetError, match="got 20000; break the line"):
            self.load(tmp_path, "a" + ".a" * 20_000 + " = 1")

    def test_size(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = (TARGETS / "mpic.toml").read_text()
        monkeypatch.setattr(loader, "_MAX_BYTES", len(text.encode()))
        assert self.load(tmp_path, text).name == "mpic"
        with pytest.raises(TargetError, match=f"at most {len(text.encode())} bytes"):
            self.load(tmp_path, text + "#")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("x" * 2001, "description: expected at most 2000 characters, got 2001"),
            (r"a\u001b[31m", r"characters that can be printed, got 'a\\x1b\[31m'"),
            (r"\u202e", r"can be printed, got '\\u202e'"),
        ],
    )
    def test_texts_are_short_and_printable(
        self, text: str, message: str, tmp_path: Path
    ) -> None:
        whole = (TARGETS / "mpic.toml").read_text()
        start = whole.index("description = ")
        end = whole.index("\n", start)
        for own in (r"two\nlines\tof it", "x" * 2000):
            self.load(tmp_path, f'{whole[:start]}description = "{own}"{whole[end:]}')
        with pytest.raises(TargetError, match=message):
            self.load(tmp_path, f'{whole[:start]}description = "{text}"{whole[end:]}')

    def test_keys_are_shown_in_one_line(self, tmp_path: Path) -> None:
        whole = (TARGETS / "mpic.toml").read_text()
        with pytest.raises(TargetError) as it:
            self.load(tmp_path, f'"a\\n\\u001b[2J" = 1\n{whole}')
        assert r"Unknown key 'a\n\x1b[2J'." in str(it.value)
        assert str(it.value).isprintable()

    def test_thousands_of_mistakes_take_no_longer_than_others(
        self, tmp_path: Path
    ) -> None:
        whole = (TARGETS / "host_litert.toml").read_text()
        entries = "\n[[compute.rates]]\nkinds = []\nweight_bits = []" * 1200
        with pytest.raises(TargetError, match="has 3600 mistakes") as it:
            self.load(tmp_path, whole + entries)
        assert len(str(it.value).splitlines()) == 41


class TestLatencyTable:
    HEADER = "layer,weight_bits,activation_bits,value,unit\n"

    def test_rows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = [f"layer{number},8,8,1,ns\n" for number in range(3)]
        monkeypatch.setattr(latency_table, "_MAX_ROWS", 2)
        (tmp_path / "a.csv").write_text(self.HEADER + "".join(rows[:2]))
        assert len(read_latency_table(tmp_path, "a.csv", 10**9)) == 2
        (tmp_path / "a.csv").write_text(self.HEADER + "".join(rows))
        with pytest.raises(TargetError, match=r"line 4 of .*at most 2 rows"):
            read_latency_table(tmp_path, "a.csv", 10**9)

    @pytest.mark.parametrize("name", ["x" * 501, "a\x1b[2Jb"])
    def test_names_of_layers(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(f"{self.HEADER}{'x' * 500},8,8,1,ns\n")
        assert read_latency_table(tmp_path, "a.csv", 10**9)
        (tmp_path / "a.csv").write_text(f"{self.HEADER}{name},8,8,1,ns\n")
        with pytest.raises(
            TargetError, match="printable characters for layers in line"
        ):
            read_latency_table(tmp_path, "a.csv", 10**9)


class TestLatencyCache:
    ROW = {  # noqa: RUF012
        "median_ms": 2.0,
        "low_ms": 1.0,
        "high_ms": 3,
        "num_repeats": 5,
        "num_threads": 1,
    }

    @staticmethod
    def read(folder: Path, row: Any) -> Any:
        text = json.dumps({"schema_version": 1, "latencies": {"ab": row}})
        (folder / "latency.json").write_text(text)
        return LatencyCache(folder / "latency.json")._read()

    def test_a_row_of_a_file_that_was_measured(self, tmp_path: Path) -> None:
        (latency,) = self.read(tmp_path, self.ROW).values()
        assert dataclasses.asdict(latency) == self.ROW

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("median_ms", "2"),
            ("median_ms", None),
            ("median_ms", True),
            ("median_ms", 3.5),  # above the upper quartile
            ("low_ms", -1.0),
            ("num_repeats", 0),
            ("num_threads", 1.0),
            ("more", 1),
        ],
    )
    def test_figures_that_nobody_measured(
        self, key: str, value: Any, tmp_path: Path
    ) -> None:
        with pytest.raises(ExportError, match="Remove the file to measure anew"):
            self.read(tmp_path, {**self.ROW, key: value})

    @pytest.mark.parametrize("value", [None, [], "x", 1, {}])
    def test_rows_of_other_kinds(self, value: Any, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="Remove the file to measure anew"):
            self.read(tmp_path, value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 5000,
        b'{"weights": {"' + b"x" * MIB + b'": 8}}',
        b"[" + b"9" * 5000 + b"]",
        b"[1e999]",
        b"[NaN]",
        b'{"a": 1, "a": 2}',
        rb'{"\ud800": 1}',
        b"[]",
        b"null",
        b"{}",
    ],
    ids=range(13),
)
def test_every_file_of_json_is_refused_with_a_sentence(
    content: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "npu"
    folder.mkdir(parents=True)
    for path, error, read in (
        (tmp_path / "p.json", PolicyError, read_policy),
        (tmp_path / "run/run.json", SearchError, lambda path: read_record(path.parent)),
        (folder / "result.json", SearchError, lambda _: read_report(tmp_path / "run")),
        (tmp_path / "l.json", ExportError, lambda path: LatencyCache(path)._read()),
    ):
        path.write_bytes(content)
        with pytest.raises(error) as it:
            read(path)
        path.unlink()
        assert str(it.value).isprintable()
        assert len(str(it.value)) < 1200
