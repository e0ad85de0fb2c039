"""What decides is covered by a digest, or computed again."""

from __future__ import annotations

import copy
import itertools
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.digits import digits_artifact
from fixtures.manifests import change_manifest, sign
from fixtures.paths import GOLDEN
from fixtures.programs import call, fails
from fixtures.samples import net_artifact

import matar_tf
from matar_tf.artifact import Artifact, check_free, read_artifact, write_artifact
from matar_tf.errors import ArtifactError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact of today, as a folder."""
    write_artifact(net_artifact("residual_bn_wide"), tmp_path / "net")
    return tmp_path / "net"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """One of version 0.1.0."""
    return Path(shutil.copytree(GOLDEN / "net", tmp_path / "old"))


def said(artifact: Artifact) -> tuple[object, ...]:
    """All that an artifact says, in its order."""
    return (artifact.members(), list(artifact.space.weights.items()))


class TestManifest:
    def test_its_digest_is_that_of_its_json(self, tmp_path: Path) -> None:
        digest = write_artifact(digits_artifact(), tmp_path / "net")
        manifest = json.loads((tmp_path / "net/manifest.json").read_text())
        assert manifest["manifest_sha256"] == digest
        sign(manifest)
        assert manifest["manifest_sha256"] == digest
        source = read_artifact(tmp_path / "net").source
        assert source is not None
        assert (source.digest, source.has_digest) == (digest, True)

    def test_a_folder_and_a_file_have_the_same(self, tmp_path: Path) -> None:
        paths = [tmp_path / "net", tmp_path / "net.matar"]
        assert len({write_artifact(digits_artifact(), path) for path in paths}) == 1

    @pytest.mark.parametrize("name", ["manifest.json", "template.tflite"])
    def test_no_flipped_bit_is_taken_for_something_else(
        self, folder: Path, name: str
    ) -> None:
        expected, rng = said(read_artifact(folder)), random.Random(0)
        path = folder / name
        content = path.read_bytes()
        refused = 0
        for _ in range(400):
            place = rng.randrange(8 * len(content))
            damaged = bytearray(content)
            damaged[place // 8] ^= 1 << place % 8
            path.write_bytes(damaged)
            try:
                assert said(read_artifact(folder)) == expected, place
            except ArtifactError:
                refused += 1
        assert refused > 350

    @pytest.mark.parametrize("key", ["accuracy", "provenance", "workload", "space"])
    def test_it_covers_every_key(self, folder: Path, key: str) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        value = manifest[key]
        # The order counts as well: it is that of the search.
        manifest[key] = {"x": 1} if not value else dict(reversed(value.items()))
        path.write_text(json.dumps(manifest))
        with pytest.raises(ArtifactError, match="not match its own SHA-256"):
            read_artifact(folder)

    def test_it_is_needed(self, folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest["manifest_sha256"]
        path.write_text(json.dumps(manifest))
        with pytest.raises(ArtifactError, match="manifest_sha256"):
            read_artifact(folder)

    @pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
    def test_what_is_no_json_is_refused_where_it_is_given(self, value: Any) -> None:
        with pytest.raises(ArtifactError, match="JSON with finite numbers"):
            replace(digits_artifact(), provenance={"seed": value})

    def test_numbers_beyond_floats_are_refused(self, folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(path.read_text().replace('"space"', '"space": 1e999, "space2"'))
        with pytest.raises(ArtifactError, match="malformed"):
            read_artifact(folder)


def of_layer(key: str, value: Any, number: int = 0) -> Callable[[Any], object]:
    return lambda at: at["workload"]["layers"][number].update({key: value})


WORKLOADS = {
    "macs": of_layer("macs", 1),
    "strides": of_layer("strides", [2, 2]),
    "kernel_size": of_layer("kernel_size", [1, 1]),
    "groups": of_layer("groups", 2),
    "bias_elems": of_layer("bias_elems", 0),
    "kind": of_layer("kind", "depthwise_conv"),
    "weights": of_layer("weights", None),
    "shape": lambda at: at["workload"]["tensors"][1].update(shape=[4, 4, 1]),
    "activation": lambda at: at["workload"]["tensors"][1].update(activation=None),
    "outputs": lambda at: at["workload"]["outputs"].append(
        at["workload"]["tensors"][1]["name"]
    ),
}


class TestWorkload:
    """It follows from the template, so it cannot say anything else."""

    @pytest.mark.parametrize("name", WORKLOADS)
    def test_another_is_refused(self, folder: Path, name: str) -> None:
        change_manifest(folder, WORKLOADS[name])
        with pytest.raises(ArtifactError, match="the workload of its template"):
            read_artifact(folder)

    @pytest.mark.parametrize("name", ["macs", "shape"])
    def test_so_it_is_in_old_artifacts(self, old: Path, name: str) -> None:
        change_manifest(old, WORKLOADS[name])
        with pytest.raises(ArtifactError, match=f"the workload of .* {name} "):
            read_artifact(old)

    def test_another_is_not_written(self, tmp_path: Path) -> None:
        workload = digits_artifact().workload
        layers = (replace(workload.layers[0], macs=1), *workload.layers[1:])
        artifact = replace(digits_artifact(), workload=replace(workload, layers=layers))
        with pytest.raises(ArtifactError, match="macs 1 for"):
            write_artifact(artifact, tmp_path / "net.matar")


class TestTemplateMap:
    """It has the invented numbers of the template, or contradicts them."""

    @pytest.mark.parametrize("name", ["residual_bn_wide", "digits_net"])
    def test_no_two_tensors_can_be_swapped(self, tmp_path: Path, name: str) -> None:
        write_artifact(net_artifact(name), tmp_path / "net")
        path = tmp_path / "net/manifest.json"
        whole = json.loads(path.read_text())
        tensors = whole["template_map"]["tensors"]
        pairs = [
            (one, other)
            for one, other in itertools.combinations(tensors, 2)
            if tensors[one] != tensors[other]
        ]
        assert len(pairs) > 10
        for one, other in pairs:
            manifest = copy.deepcopy(whole)
            at = manifest["template_map"]["tensors"]
            at[one], at[other] = at[other], at[one]
            sign(manifest)
            path.write_text(json.dumps(manifest))
            with pytest.raises(ArtifactError):
                read_artifact(tmp_path / "net")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            # Two tensors of one scale, before and after a clamp.
            (lambda at: at["tensors"].update({"11": "add"}), "template map"),
            (lambda at: at["before_clamps"].clear(), "template map"),
            (lambda at: at["clamps"].pop("add"), "template map"),
            (lambda at: at["clamps"]["add"].append(3), "template map"),
            (lambda at: at["clamps"].update(nobody=[]), "template map"),
            (
                lambda at: at["tensors"].update({"11": "nobody"}),
                "a place for each entry",
            ),
            (lambda at: at["kernels"].pop("logits"), "a place for each entry"),
        ],
    )
    def test_places_that_contradict_the_template(
        self, folder: Path, change: Callable[[Any], object], message: str
    ) -> None:
        change_manifest(folder, lambda manifest: change(manifest["template_map"]))
        with pytest.raises(ArtifactError, match=message):
            read_artifact(folder)

    def test_signs_are_those_of_the_template(self, tmp_path: Path) -> None:
        artifact = net_artifact("residual_bn_wide")
        tensors = dict(artifact.parameters.tensors)
        tensors["add"] = replace(tensors["add"], signed=False)
        changed = replace(artifact.parameters, tensors=tensors)
        with pytest.raises(ArtifactError, match="the zero point"):
            write_artifact(replace(artifact, parameters=changed), tmp_path / "net")


class TestFigures:
    @pytest.mark.parametrize(
        ("metric", "value", "fits"),
        [
            ("accuracy", 0.0, True),
            ("accuracy", 1, True),
            ("accuracy", -0.001, False),
            ("accuracy", 99.0, False),
            ("top_5_accuracy", 1.001, False),
            ("loss", 99.0, True),
            ("loss", True, False),
        ],
    )
    def test_accuracies_are_shares(
        self, tmp_path: Path, metric: str, value: float, fits: bool
    ) -> None:
        accuracy = {"float": {metric: value}}
        if not fits:
            with pytest.raises(ArtifactError, match=r"shares within 0\.\.1"):
                replace(digits_artifact(), accuracy=accuracy)
            return
        write_artifact(replace(digits_artifact(), accuracy=accuracy), tmp_path / "net")
        assert read_artifact(tmp_path / "net").accuracy == accuracy


class TestOldArtifacts:
    def test_figures_count_as_unverified(self, old: Path) -> None:
        artifact = read_artifact(old)
        assert not artifact.is_verified
        figures = [line for line in repr(artifact).splitlines() if "accuracy" in line]
        assert len(figures) == 3
        assert all(line.endswith("(unverified)") for line in figures)

    def test_written_again_they_have_a_digest(self, old: Path, tmp_path: Path) -> None:
        artifact = read_artifact(old)
        digest = write_artifact(artifact, tmp_path / "new.matar")
        again = read_artifact(tmp_path / "new.matar", expect_digest=digest)
        assert again.is_verified
        assert "unverified" not in repr(again)
        assert again.digest() == artifact.digest()
        assert again.accuracy == artifact.accuracy


class TestExpected:
    def test_the_right_one_is_taken(self, folder: Path) -> None:
        digest = json.loads((folder / "manifest.json").read_text())["manifest_sha256"]
        for text in (digest, f"sha256:{digest}", digest.upper()):
            assert matar_tf.load_artifact(folder, expect_digest=text).is_verified

    def test_of_old_artifacts_too(self, old: Path) -> None:
        manifest = json.loads((old / "manifest.json").read_text())
        sign(signed := {**manifest, "manifest_sha256": "anew"})
        digest = signed["manifest_sha256"]
        assert not read_artifact(old, expect_digest=digest).is_verified
        change_manifest(old, lambda at: at["accuracy"]["w8a8"].update(accuracy=1.0))
        with pytest.raises(ArtifactError, match=f"sha256:{digest} at .*, got sha256:"):
            read_artifact(old, expect_digest=digest)

    @pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "g" * 64, "md5:0"])
    def test_what_is_no_digest(self, folder: Path, text: str) -> None:
        with pytest.raises(ArtifactError, match="SHA-256 of 64 hex digits in expect_d"):
            read_artifact(folder, expect_digest=text)

    def test_commands_print_it_and_expect_it(
        self, folder: Path, old: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        digest = json.loads((folder / "manifest.json").read_text())["manifest_sha256"]
        price = {"policies": ["w8a8"], "targets": ["mpic"], "format": "json"}
        assert call("cost", str(folder), **price, expect_digest=digest) == 0
        printed = capsys.readouterr()
        assert printed.err == f"artifact {folder} sha256:{digest}\n"
        assert json.loads(printed.out)
        other = "0" * 64
        for name, values in (
            ("cost", price),
            ("export", {"policies": "w8a8", "output": str(folder / "x.tflite")}),
            ("search", {"targets": ["mpic"], "output": str(folder / "run")}),
            ("compare", {}),
            ("verify", {}),
        ):
            line = fails(capsys, name, str(folder), **values, expect_digest=other)
            assert f"the artifact sha256:{other} at {folder}, got" in line
        assert call("verify", str(folder), expect_digest=digest) == 0
        assert f"SHA-256          {digest}\n" in capsys.readouterr().out
        assert call("cost", str(old), **price) == 0
        assert "are unverified: no digest" in capsys.readouterr().err
        assert call("verify", str(old)) == 0
        assert "are unverified: no digest" in capsys.readouterr().out
        line = fails(capsys, "verify", "x.tflite", expect_digest=digest)
        assert "an artifact beside --expect_digest" in line


class TestFolder:
    """It may be a repository of a hub, and signed in place."""

    BESIDE = ("README.md", "LICENSE", ".gitattributes", "model.sig")

    @pytest.fixture
    def repository(self, folder: Path) -> Path:
        for name in self.BESIDE:
            (folder / name).write_text("of the hub")
        for name in (".git", ".cache"):
            (folder / name).mkdir()
            (folder / name / "config").write_text("of the hub")
        return folder

    def test_is_read_as_without_them(self, repository: Path) -> None:
        assert said(read_artifact(repository)) == said(net_artifact("residual_bn_wide"))

    @pytest.mark.parametrize("name", ["run.py", "README", "readme.md", ".gitignore"])
    def test_holds_no_other_files(self, repository: Path, name: str) -> None:
        (repository / name).write_text("x")
        with pytest.raises(ArtifactError, match=rf"got also \['{name}'\]; move"):
            read_artifact(repository)

    @pytest.mark.parametrize("name", ["assets", "LICENSE", "network.json"])
    def test_holds_no_other_folders(self, repository: Path, name: str) -> None:
        (repository / name).unlink(missing_ok=True)
        (repository / name).mkdir()
        with pytest.raises(ArtifactError, match=rf"got also \['{name}'\]; move"):
            read_artifact(repository)

    @pytest.mark.parametrize("name", BESIDE)
    def test_a_file_holds_none(self, tmp_path: Path, name: str) -> None:
        write_artifact(digits_artifact(), tmp_path / "net.matar")
        with zipfile.ZipFile(tmp_path / "net.matar", "a") as archive:
            archive.writestr(name, "x")
        with pytest.raises(ArtifactError, match=f"got '{name}'"):
            read_artifact(tmp_path / "net.matar")

    def test_is_not_overwritten_with_what_is_beside(self, repository: Path) -> None:
        with pytest.raises(ArtifactError, match=r"holds also \['\.cache', '\.git'"):
            check_free(repository, overwrite=True)
        assert (repository / ".git/config").read_text() == "of the hub"

    def test_may_be_links_as_in_the_cache_of_a_hub(self, folder: Path) -> None:
        blobs = folder.parent / "blobs"
        blobs.mkdir()
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(blobs / str(number))
            path.symlink_to(Path("../blobs") / str(number))
        assert said(read_artifact(folder)) == said(net_artifact("residual_bn_wide"))
        (blobs / "1").write_bytes(b"altered")
        with pytest.raises(ArtifactError, match=r"does not match its SHA-256"):
            read_artifact(folder)

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("/proc/self/mem", r"'template.tflite' of .* does not match its SHA-256"),
            ("/proc/self/environ", r"'template.tflite' of .* does not match its SHA"),
            ("/dev/zero", r"got also \['template.tflite'\]; move"),
            ("nowhere", r"got also \['template.tflite'\]; move"),
        ],
    )
    def test_links_to_what_is_no_file_of_a_size(
        self, folder: Path, target: str, message: str
    ) -> None:
        (folder / "template.tflite").unlink()
        (folder / "template.tflite").symlink_to(target)
        with pytest.raises(ArtifactError, match=message):
            read_artifact(folder)

    def test_nothing_is_read_after_what_is_wrong(self, folder: Path) -> None:
        (folder / "parameters.npz").unlink()
        (folder / "parameters.npz").symlink_to("/proc/self/mem")
        with pytest.raises(ArtifactError, match=r"'parameters.npz' of .* SHA-256"):
            read_artifact(folder)
        with (folder / "template.tflite").open("ab") as file:
            file.write(b"x")
        with pytest.raises(ArtifactError, match=r"'template.tflite' of .* SHA-256"):
            read_artifact(folder)
        (folder / "manifest.json").write_text("{}")
        with pytest.raises(ArtifactError, match=r"The manifest of .* is malformed"):
            read_artifact(folder)
