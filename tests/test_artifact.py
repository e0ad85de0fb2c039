from __future__ import annotations

import io
import itertools
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.manifests import change_manifest
from fixtures.templates import DENSE_PLACES, dense_template

from matar_tf import artifact as artifact_module
from matar_tf import consistency, packaged
from matar_tf import parameters as parameters_module
from matar_tf.artifact import Artifact, check_free, read_artifact, write_artifact
from matar_tf.errors import ArtifactError, ExportError
from matar_tf.norms import NormParameters, norm_places, num_norm_rows
from matar_tf.parameters import (
    LayerParameters,
    Parameters,
    TensorParameters,
)
from matar_tf.policy import Policy
from matar_tf.space import PolicySpace
from matar_tf.tflite.export import check_output
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload, Workload


@pytest.fixture
def artifact() -> Artifact:
    layer = LayerParameters(
        kernel=np.arange(6, dtype=np.float32).reshape(2, 3),
        channel_axis=0,
        bits=(2, 8),
        step=np.ones((2, 2), np.float32),
        norm=NormParameters(
            entries=(("weights", "dense", (2, 8)),),
            gamma=np.full(2, 0.5, np.float32),
            beta=np.zeros(2, np.float32),
            mean=np.zeros((2, 2), np.float32),
            variance=np.ones((2, 2), np.float32),
            epsilon=1e-3,
        ),
    )
    tensors = {
        name: TensorParameters(bits=(8,), step=np.array([0.1]), signed=True)
        for name in ("input", "dense")
    }
    workload = Workload(
        layers=(
            LayerWorkload(
                name="dense",
                kind=OpKind.DENSE,
                inputs=("input",),
                output="dense",
                weights="dense",
                macs=6,
                weight_elems=6,
                bias_elems=2,
            ),
        ),
        tensors={
            name: TensorWorkload(name=name, shape=(size,), activation=name)
            for name, size in (("input", 3), ("dense", 2))
        },
        inputs=("input",),
        outputs=("dense",),
    )
    return Artifact(
        space=PolicySpace(
            weights={"dense": (2, 8)}, activations={"input": (8,), "dense": (8,)}
        ),
        workload=workload,
        parameters=Parameters(layers={"dense": layer}, tensors=tensors),
        template=dense_template(),
        template_map=DENSE_PLACES,
        accuracy={"float": {"accuracy": 0.5}},
        provenance={"seed": 0},
    )


NO_PLACES = {"tensors": {}, "kernels": {}, "clamps": {}, "before_clamps": []}


def npz_members(artifact: Artifact) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(artifact.parameters.to_npz())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@pytest.fixture(params=["folder", "file.matar"])
def written(request: pytest.FixtureRequest, tmp_path: Path, artifact: Artifact) -> Path:
    path = tmp_path / request.param
    write_artifact(artifact, path)
    return path


def check_refused(artifact: Artifact, path: Path, message: str) -> None:
    """Checks that an artifact is neither written nor, written by others, read."""
    with pytest.raises(ArtifactError, match=message):
        write_artifact(artifact, path)
    assert not path.exists()
    path.mkdir()
    for name, content in artifact.members().items():
        (path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        read_artifact(path)


def test_round_trip(written: Path, artifact: Artifact) -> None:
    read = read_artifact(written)
    assert read.digest() == artifact.digest()
    assert read.space == artifact.space
    assert read.workload == artifact.workload
    assert read.accuracy == artifact.accuracy
    layer = read.parameters.layers["dense"]
    np.testing.assert_array_equal(layer.kernel, [[0, 1, 2], [3, 4, 5]])
    assert layer.bias is None
    assert layer.norm.entries == (("weights", "dense", (2, 8)),)
    assert layer.norm.epsilon == 1e-3
    scale, offset = layer.affine(read.space.named("w8a8"))
    np.testing.assert_allclose(scale, 0.5 / np.sqrt(1.001), rtol=1e-6)
    np.testing.assert_array_equal(offset, 0.0)
    assert layer.bits == (2, 8)
    assert read.parameters.tensors["input"].signed


class TestStatistics:
    """Two entries choose the row of the first term, each further one its own."""

    @pytest.mark.parametrize(
        ("sizes", "rows", "places"),
        [
            ([3], [2], [2]),
            ([2, 3], [1, 2], [1 * 3 + 2]),
            ([2, 3, 4], [0, 1, 3], [1, 2 * 3 + 3]),
            ([2, 3, 4, 5], [1, 0, 0, 4], [3, 2 * 3, 2 * 3 + 4 + 4]),
        ],
    )
    def test_rows_by_hand(
        self, sizes: list[int], rows: list[int], places: list[int]
    ) -> None:
        assert norm_places(sizes, rows) == places

    @pytest.mark.parametrize("sizes", [[3], [2, 3], [2, 3, 4], [2, 3, 4, 5]])
    def test_every_row_is_of_one_place(self, sizes: list[int]) -> None:
        places: list[set[int]] = []
        for rows in itertools.product(*map(range, sizes)):
            found = norm_places(sizes, rows)
            places = places or [set() for _ in found]
            for known, place in zip(places, found, strict=True):
                known.add(place)
        assert sum(map(len, places)) == num_norm_rows(sizes)
        assert set().union(*places) == set(range(num_norm_rows(sizes)))

    def test_terms_add_up_by_hand(self) -> None:
        # Rows 0 to 3 are of the pair of "a" and "x", rows 4 and 5 of "y".
        norm = NormParameters(
            entries=(
                ("weights", "a", (2, 8)),
                ("activations", "x", (4, 8)),
                ("activations", "y", (4, 8)),
            ),
            gamma=np.array([-3.0], np.float32),
            beta=np.array([10.0], np.float32),
            mean=np.array([[0], [1], [2], [3], [40], [50]], np.float32),
            variance=np.array([[1], [1], [3], [1], [5], [7]], np.float32),
            epsilon=1.0,
        )
        policy = Policy(weights={"a": 8}, activations={"x": 4, "y": 4})
        scale, offset = norm.folded(policy)
        assert scale == [np.float32(3 / (3 * 5 + 1) ** 0.5)]
        assert offset == [np.float32(10 - (2 + 40) * 3 / 4)]


def test_equal_artifacts_are_equal_files(tmp_path: Path, artifact: Artifact) -> None:
    for name in ("a.matar", "b.matar"):
        write_artifact(artifact, tmp_path / name)
    assert (tmp_path / "a.matar").read_bytes() == (tmp_path / "b.matar").read_bytes()


class TestDigest:
    def test_depends_on_what_decides_accuracy(self, artifact: Artifact) -> None:
        assert replace(artifact, template=b"other").digest() != artifact.digest()
        space = artifact.space.with_choices(weights={"dense": (8,)})
        assert replace(artifact, space=space).digest() != artifact.digest()

    def test_does_not_depend_on_records(self, artifact: Artifact) -> None:
        other = replace(artifact, provenance={"seed": 1}, accuracy={})
        assert other.digest() == artifact.digest()


class TestDamage:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="found nothing"):
            read_artifact(tmp_path / "none")

    @pytest.mark.parametrize("member", ["template.tflite", "parameters.npz"])
    def test_an_altered_member(
        self, tmp_path: Path, artifact: Artifact, member: str
    ) -> None:
        write_artifact(artifact, tmp_path / "a")
        (tmp_path / "a" / member).write_bytes(b"altered")
        with pytest.raises(ArtifactError, match="SHA-256"):
            read_artifact(tmp_path / "a")

    @pytest.mark.parametrize("member", ["template.tflite", "manifest.json"])
    def test_a_missing_member(
        self, tmp_path: Path, artifact: Artifact, member: str
    ) -> None:
        write_artifact(artifact, tmp_path / "a")
        (tmp_path / "a" / member).unlink()
        with pytest.raises(ArtifactError, match=r"incomplete|not an artifact"):
            read_artifact(tmp_path / "a")

    @pytest.mark.parametrize(
        ("part", "field", "expected"),
        [
            ("layer", "step", r"step .* \(2, 2\), not \(3, 2\)"),
            ("norm", "gamma", r"gamma .* \(2,\), not \(3,\)"),
            ("norm", "beta", r"beta .* \(2,\), not \(3,\)"),
            ("norm", "mean", r"mean .* \(2, 2\), not \(3, 2\)"),
            ("norm", "variance", r"variance .* \(2, 2\), not \(3, 2\)"),
            ("tensor", "step", r"step of 'input' .* \(1,\), not \(2,\)"),
            ("bias", "bias", r"bias .* \(2,\), not \(3,\)"),
            ("axis", "channel_axis", "tuple index out of range"),
        ],
    )
    def test_an_array_of_another_shape(
        self, artifact: Artifact, part: str, field: str, expected: str
    ) -> None:
        parameters = artifact.parameters
        layer, tensor = parameters.layers["dense"], parameters.tensors["input"]
        assert layer.norm is not None

        def longer(array: np.ndarray) -> np.ndarray:
            return np.concatenate([array, array[:1]])

        if part == "layer":
            layer = replace(layer, step=longer(layer.step))
        elif part == "norm":
            value = longer(getattr(layer.norm, field))
            layer = replace(layer, norm=replace(layer.norm, **{field: value}))
        elif part == "bias":
            layer = replace(layer, bias=np.zeros(3, np.float32), norm=None)
        elif part == "axis":
            layer = replace(layer, channel_axis=2)
        else:
            tensor = replace(tensor, step=longer(tensor.step))
        altered = Parameters(layers={"dense": layer}, tensors={"input": tensor})
        with pytest.raises(ArtifactError, match=expected):
            Parameters.from_npz(altered.to_npz())

    @pytest.mark.parametrize(
        ("array", "value", "message"),
        [
            ("layer0_step", np.zeros((2, 2), np.float32), "must be positive"),
            ("tensor0_step", -np.ones(1, np.float32), "must be positive"),
            ("layer0_variance", -np.ones((2, 2), np.float32), "must be positive"),
            ("layer0_kernel", np.full((2, 3), np.nan, np.float32), "finite numbers"),
            ("layer0_kernel", np.ones((2, 3)), "float32, not float64"),
            ("layer0_gamma", np.array(["a", "b"]), "array of numbers"),
            ("layer9_gamma", np.ones(2, np.float32), "not in its index"),
        ],
    )
    def test_an_array_of_other_numbers(
        self, artifact: Artifact, array: str, value: np.ndarray, message: str
    ) -> None:
        members = npz_members(artifact)
        members[f"{array}.npy"] = npy(value)
        with pytest.raises(ArtifactError, match=message):
            Parameters.from_npz(zip_of(members))

    def test_an_array_that_promises_more_than_it_holds(
        self, artifact: Artifact
    ) -> None:
        members = npz_members(artifact)
        content = npy(np.zeros((2, 3), np.float32))
        members["layer0_kernel.npy"] = content.replace(b"(2, 3)", b"(2, 9)")
        with pytest.raises(ArtifactError, match=r"shape \(2, 9\)"):
            Parameters.from_npz(zip_of(members))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda layer: layer.update(bits=8), "ascending integers"),
            (lambda layer: layer.update(bits=[8, 2]), "ascending integers"),
            (lambda layer: layer.update(bits=[2, 9]), "ascending integers"),
            (lambda layer: layer.update(channel_axis=-1), "0 or above"),
            (lambda layer: layer.update(colour="red"), "colour"),
            (lambda layer: layer["norm"].update(epsilon=0), "above 0"),
            (lambda layer: layer["norm"].update(epsilon="x"), "above 0"),
            (lambda layer: layer["norm"].update(entries=[]), "must depend"),
            (
                lambda layer: layer["norm"].update(
                    entries=[["__class__", "dense", [2, 8]]]
                ),
                "__class__",
            ),
            (
                lambda layer: layer["norm"].update(
                    entries=[["weights", "nobody", [2, 8]]]
                ),
                "nobody",
            ),
            (
                lambda layer: layer["norm"].update(
                    entries=[["activations", "input", [2, 8]]]
                ),
                "entries of the network",
            ),
        ],
    )
    def test_a_malformed_index(
        self, artifact: Artifact, change: Any, message: str
    ) -> None:
        members = npz_members(artifact)
        index = json.loads(members["index.json"])
        change(index["layers"][0])
        members["index.json"] = json.dumps(index).encode()
        with pytest.raises(ArtifactError, match=message):
            Parameters.from_npz(zip_of(members))

    def test_a_zip_that_unpacks_to_too_much(
        self,
        written: Path,
        tmp_path: Path,
        artifact: Artifact,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        size = sum(map(len, read_artifact(written).members().values()))
        monkeypatch.setattr(artifact_module, "_MAX_BYTES", size)
        read_artifact(written)
        monkeypatch.setattr(artifact_module, "_MAX_BYTES", size - 1)
        with pytest.raises(ArtifactError, match=f"at most {size - 1} bytes"):
            read_artifact(written)
        with pytest.raises(ArtifactError, match=f"at most {size - 1} bytes"):
            write_artifact(artifact, tmp_path / "another")

    def test_a_folder_does_not_become_a_file(
        self, tmp_path: Path, artifact: Artifact
    ) -> None:
        path = tmp_path / "a.matar"
        path.mkdir()
        for overwrite in (False, True):
            with pytest.raises(ArtifactError, match="got a folder"):
                write_artifact(artifact, path, overwrite=overwrite)

    def test_the_digest_is_of_numbers_and_not_of_how_they_are_packed(
        self, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, packed = artifact.digest(), artifact.parameters.to_npz()
        monkeypatch.setattr(zipfile, "ZIP_DEFLATED", zipfile.ZIP_STORED)
        assert artifact.parameters.to_npz() != packed
        assert artifact.digest() == before

    @pytest.mark.parametrize("name", ["a", "a.matar"])
    def test_what_would_be_too_large_to_read_is_not_written(
        self,
        tmp_path: Path,
        artifact: Artifact,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
    ) -> None:
        monkeypatch.setattr(parameters_module, "MAX_ARRAY_BYTES", 1000)
        with pytest.raises(ArtifactError, match="at most 1000 bytes"):
            write_artifact(artifact, tmp_path / name)
        assert not list(tmp_path.iterdir())

    def test_parameters_that_unpack_to_too_much(
        self, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = artifact.parameters.to_npz()
        monkeypatch.setattr(parameters_module, "MAX_ARRAY_BYTES", 1000)
        with pytest.raises(ArtifactError, match="at most 1000 bytes"):
            Parameters.from_npz(content)

    @pytest.mark.parametrize(
        ("offsets", "byte"), [((6, 8), 1), ((8, 10), 99)], ids=["locked", "method"]
    )
    def test_a_zip_that_python_cannot_read(
        self, tmp_path: Path, artifact: Artifact, offsets: tuple[int, int], byte: int
    ) -> None:
        path = tmp_path / "a.matar"
        write_artifact(artifact, path)
        content = bytearray(path.read_bytes())
        content[offsets[0]] = byte
        content[content.find(b"PK\x01\x02") + offsets[1]] = byte
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="damaged"):
            read_artifact(path)

    def test_a_member_whose_compression_is_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "a.matar"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("manifest.json", bytes(range(256)) * 40)
        content = bytearray(path.read_bytes())
        content[50:90] = b"\xff" * 40
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="damaged"):
            read_artifact(path)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("accuracy", [1], "finite numbers"),
            ("accuracy", {"float": 3}, "finite numbers"),
            ("accuracy", {"float": {"accuracy": 10**400}}, "401 digits"),
            ("accuracy", {"float": {"accuracy": "high"}}, "finite numbers"),
            ("provenance", [1], "provenance"),
            ("sha256", [1], "sha256"),
            ("template_map", 3, "template_map"),
            ("template_map", {**NO_PLACES, "colour": {}}, "colour"),
            ("template_map", {**NO_PLACES, "tensors": {"01": "input"}}, "indices of"),
            (
                "template_map",
                {**NO_PLACES, "clamps": {"input": [1.5]}},
                "list of ind",
            ),
            ("template_map", NO_PLACES, "a place for each"),
            ("colour", "red", "colour"),
        ],
    )
    def test_a_malformed_manifest(
        self, tmp_path: Path, artifact: Artifact, key: str, value: Any, message: str
    ) -> None:
        write_artifact(artifact, tmp_path / "a")
        change_manifest(tmp_path / "a", lambda manifest: manifest.update({key: value}))
        with pytest.raises(ArtifactError, match=message):
            read_artifact(tmp_path / "a")

    def test_a_manifest_that_is_nested_too_deeply(
        self, tmp_path: Path, artifact: Artifact
    ) -> None:
        write_artifact(artifact, tmp_path / "a")
        (tmp_path / "a" / "manifest.json").write_text("[" * 100_000)
        with pytest.raises(ArtifactError, match="nested too deeply"):
            read_artifact(tmp_path / "a")

    def test_kernels_of_another_size(self, tmp_path: Path, artifact: Artifact) -> None:
        layer = artifact.parameters.layers["dense"]
        layer = replace(layer, kernel=np.ones((2, 4), np.float32))
        parameters = replace(artifact.parameters, layers={"dense": layer})
        check_refused(
            replace(artifact, parameters=parameters), tmp_path / "a", "of the shapes"
        )

    def test_a_graph_that_is_nested_too_deeply(
        self, written: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def descend(template: Any) -> Any:
            return descend(template)

        monkeypatch.setattr(consistency, "read_workload", descend)
        with pytest.raises(ArtifactError, match=r"that was packaged .Recurs"):
            read_artifact(written)

    def test_an_unknown_member(self, tmp_path: Path, artifact: Artifact) -> None:
        write_artifact(artifact, tmp_path / "a")
        (tmp_path / "a" / "run.py").write_text("boom")
        words = r"members of an artifact alone, .*also \['run\.py'\]; move them"
        with pytest.raises(ArtifactError, match=words):
            read_artifact(tmp_path / "a")

    def test_other_files_and_folders(self, tmp_path: Path) -> None:
        file = tmp_path / "net.h5"
        file.write_bytes(b"\x89HDF\r\n\x1a\n")
        with pytest.raises(ArtifactError, match="another kind of file; make one with"):
            read_artifact(file)
        with pytest.raises(ArtifactError, match="it is not an artifact; name one"):
            read_artifact(tmp_path)
        np.savez(tmp_path / "data.npz", x_test=np.ones(3))
        with pytest.raises(ArtifactError, match=r"'x_test\.npy'; check that it is the"):
            read_artifact(tmp_path / "data.npz")

    def test_nothing_is_written_into_the_folder_of_one(
        self, tmp_path: Path, artifact: Artifact
    ) -> None:
        folder = tmp_path / "a"
        write_artifact(artifact, folder)
        with pytest.raises(ArtifactError, match="outside of artifacts"):
            write_artifact(artifact, folder / "b.matar")
        with pytest.raises(ExportError, match="outside of artifacts"):
            check_output(folder / "x.tflite")
        check_output(tmp_path / "x.tflite")
        write_artifact(artifact, folder, overwrite=True)
        assert read_artifact(folder).digest() == artifact.digest()

    def test_another_schema_version(self, tmp_path: Path, artifact: Artifact) -> None:
        write_artifact(artifact, tmp_path / "a")
        for version in (2, 5, "4", True, 4.0):
            change_manifest(
                tmp_path / "a", lambda at, one=version: at.update(schema_version=one)
            )
            with pytest.raises(ArtifactError, match=f"version 3 or 4, got {version!r}"):
                read_artifact(tmp_path / "a")

    def test_a_manifest_that_is_not_json(
        self, tmp_path: Path, artifact: Artifact
    ) -> None:
        write_artifact(artifact, tmp_path / "a")
        (tmp_path / "a" / "manifest.json").write_text("{")
        with pytest.raises(ArtifactError, match="malformed: Expected JSON"):
            read_artifact(tmp_path / "a")

    def test_a_truncated_zip(self, tmp_path: Path, artifact: Artifact) -> None:
        path = tmp_path / "a.matar"
        write_artifact(artifact, path)
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(ArtifactError, match="damaged"):
            read_artifact(path)

    def test_a_zip_member_outside(self, tmp_path: Path, artifact: Artifact) -> None:
        path = tmp_path / "a.matar"
        write_artifact(artifact, path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("../outside", b"")
        with pytest.raises(ArtifactError, match=r"\.\./outside"):
            read_artifact(path)

    def test_pickled_parameters(self, tmp_path: Path, artifact: Artifact) -> None:
        np.savez(tmp_path / "p.npz", layer0_kernel=np.array([{}], object))
        with pytest.raises(ArtifactError, match="malformed"):
            Parameters.from_npz((tmp_path / "p.npz").read_bytes())

    def test_entries_without_parameters(
        self, tmp_path: Path, artifact: Artifact
    ) -> None:
        parameters = replace(artifact.parameters, tensors={})
        check_refused(
            replace(artifact, parameters=parameters),
            tmp_path / "a",
            "activation entries",
        )


class TestOverwriting:
    def test_is_refused_unless_allowed(self, written: Path, artifact: Artifact) -> None:
        with pytest.raises(ArtifactError, match="overwrite=True"):
            write_artifact(artifact, written)
        other = replace(artifact, provenance={"seed": 7})
        write_artifact(other, written, overwrite=True)
        assert read_artifact(written).provenance == {"seed": 7}

    def test_spares_what_is_no_artifact(
        self, tmp_path: Path, artifact: Artifact
    ) -> None:
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "thesis.txt").write_text("years")
        with pytest.raises(ArtifactError, match="something else"):
            check_free(tmp_path / "precious", overwrite=True)

    def test_leaves_no_temporary_files(self, written: Path) -> None:
        assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_unknown_extras_are_refused(tmp_path: Path, artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match=r"code\.py"):
        write_artifact(replace(artifact, extras={"code.py": b""}), tmp_path / "a")


class TestRecord:
    """Accuracy and provenance, checked where an artifact is made."""

    @pytest.mark.parametrize(
        "accuracy",
        [
            *([1], 3, {"float": 0.97}, {"float": {"accuracy": 97.0}}),
            *({"float": {"accuracy": np.nan}}, {"float": {"loss": np.inf}}),
            {"float": {1: 0.5}},
        ],
    )
    def test_refuses_another_accuracy(self, artifact: Artifact, accuracy: Any) -> None:
        with pytest.raises(ArtifactError, match=r"accuracy=, shares within 0\.\.1"):
            replace(artifact, accuracy=accuracy)

    @pytest.mark.parametrize(
        ("provenance", "words"),
        [
            ("hello", "got 'hello'; give a dict"),
            ({"seed": float("nan")}, "finite numbers"),
            ({"when": {1, 2}}, "finite numbers"),
            ({1: "seed"}, "no texts"),
            ({"seed": 10**30}, "31 digits"),
        ],
    )
    def test_refuses_what_could_not_be_read_again(
        self, artifact: Artifact, provenance: Any, words: str
    ) -> None:
        with pytest.raises(ArtifactError, match=words):
            replace(artifact, provenance=provenance)

    def test_bounds_values_and_characters(
        self, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(packaged, "_MAX_AMOUNT", 1000)
        # Both and what holds them, a key of one character and its list: 6.
        for most in ([0] * 994, [{}] * 994, ["x" * 993], [{"x": 1}] * 248):
            replace(artifact, accuracy={}, provenance={"a": most})
            with pytest.raises(ArtifactError, match="at most 1000 values and charac"):
                replace(artifact, accuracy={}, provenance={"a": [*most, [1, 2]]})
        rows = {f"p{index}": {} for index in range(249)}
        with pytest.raises(ArtifactError, match="keep long records in a file"):
            replace(artifact, accuracy=rows, provenance={})

    def test_refuses_what_holds_itself(
        self, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(packaged, "_MAX_AMOUNT", 1000)
        loop: list[Any] = []
        loop.append(loop)
        with pytest.raises(ArtifactError, match="values and characters"):
            replace(artifact, provenance={"a": loop})

    def test_takes_numbers_of_numpy(self, artifact: Artifact, tmp_path: Path) -> None:
        artifact = replace(
            artifact,
            accuracy={"float": {"accuracy": np.float32(0.75), "loss": np.float64(2)}},
            provenance={"seed": np.int64(3), "shape": (8, 8)},
        )
        write_artifact(artifact, tmp_path / "a.matar")
        read = read_artifact(tmp_path / "a.matar")
        assert read.accuracy == {"float": {"accuracy": 0.75, "loss": 2.0}}
        assert read.provenance == {"seed": 3, "shape": [8, 8]}
