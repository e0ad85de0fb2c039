"""What a run may remove from its folder, and what the folder says of it."""

from __future__ import annotations

import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from fixtures.digits import digits_artifact, few_digits, write_digits
from fixtures.programs import fails

import matar_tf as mt
from matar_tf.artifact import write_artifact
from matar_tf.errors import MatarError, SearchError, TargetError
from matar_tf.evolution import SearchOptions
from matar_tf.run.folder import prepare_folder
from matar_tf.run.plan import make_run
from matar_tf.run.settings import RunSettings
from matar_tf.targets import load_target

DATA = few_digits().head(60)
TARGET = "mpic"
WRITTEN = (
    *("run.json", "evaluations.sqlite", "evaluations.sqlite-wal", "latency.json"),
    *("matrix.json", "matrix.csv", "matrix.md", "report.html"),
    *(f"{TARGET}/front.{end}" for end in ("json", "csv", "md")),
    *(f"{TARGET}/{name}" for name in ("result.json", "policy_00.json")),
    *(f"{TARGET}/{name}" for name in ("policy_00.tflite", "policy_123.tflite")),
)
KEPT = ["run.json"]  # and written anew


def prepare(output: Path, **changes: Any) -> str:
    how = {key: changes.pop(key) for key in ("resume", "overwrite") if key in changes}
    options = SearchOptions(max_evaluations=12, population_size=8)
    asked = RunSettings(**{"options": options, "progress": False, **changes})
    targets = [load_target(TARGET)]
    run = make_run(digits_artifact(), targets, DATA, asked)
    return prepare_folder(run, output, **how)[1]


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder with a file of every name that a run writes."""
    output = tmp_path / "run"
    prepare(output)
    for name in WRITTEN[1:]:
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_text("")
    return output


def test_the_folder_of_an_artifact_takes_no_run(tmp_path: Path) -> None:
    write_artifact(digits_artifact(), tmp_path / "net")
    with pytest.raises(SearchError, match="outside of artifacts"):
        prepare(tmp_path / "net" / "run")
    mt.load_artifact(tmp_path / "net")


@pytest.mark.parametrize("share", [math.nan, math.inf, -math.inf, 0.0, -0.1, 1.001])
def test_what_is_no_share_is_refused(share: float) -> None:
    options = SearchOptions()
    with pytest.raises(SearchError, match=f"follow_up_share .* got {share}; it"):
        RunSettings(options=options, follow_up_share=share)
    assert RunSettings(options=options, follow_up_share=1.0).follow_up_share == 1.0
    assert RunSettings(options=options, follow_up_share=1e-3).follow_up_share == 1e-3


def test_a_name_that_no_folder_can_have_is_refused(tmp_path: Path) -> None:
    text = (resources.files("matar_tf.targets") / "data/mpic.toml").read_text("utf-8")
    path = tmp_path / "my.toml"
    for name in ("m" * 100, "m" * 101):
        (tmp_path / f".{name}.0123456789abcdef").mkdir()  # while it is written
        path.write_text(text.replace('name = "mpic"', f'name = "{name}"'), "utf-8")
        if len(name) == 100:
            assert load_target(path).name == name
            continue
        with pytest.raises(TargetError) as caught:
            load_target(path)
        assert str(caught.value).endswith(
            "a mistake: name: expected at most 100 characters, got 101; shorten it."
        )


def test_a_start_is_not_called_as_the_float_network() -> None:
    """Every other row has a name of its own; a table has its rows by name."""
    policy = digits_artifact().space.named("w8a8")
    for name in ("float", "w8a8", "policy_00"):
        asked = RunSettings(options=SearchOptions(), starts={name: policy})
        with pytest.raises(SearchError, match=f"nother name.*'{name}'.*; rename"):
            make_run(digits_artifact(), [load_target(TARGET)], DATA, asked)
    asked = RunSettings(options=SearchOptions(), starts={"floating": policy})
    make_run(digits_artifact(), [load_target(TARGET)], DATA, asked)


@pytest.mark.parametrize(
    "name", ["", " mine", "mi\nne", "../mine", "a\\b", "\x1b[2J", "m" * 101]
)
def test_a_start_has_a_name_that_a_line_can_show(name: str) -> None:
    policy = digits_artifact().space.named("w8a8")
    for good in ("m" * 100, "my best, of 2026", "größe"):
        RunSettings(options=SearchOptions(), starts={good: policy})
    with pytest.raises(SearchError, match="1 to 100 printable") as caught:
        RunSettings(options=SearchOptions(), starts={name: policy})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["mpic", "report.html", "evaluations.sqlite"])
def test_nothing_is_written_through_a_link_out_of_the_folder(
    output: Path, tmp_path: Path, name: str
) -> None:
    for path in (output / "mpic").iterdir():
        path.unlink()
    (output / "mpic").rmdir()
    (output / name).unlink(missing_ok=True)
    (tmp_path / "mine").mkdir()
    (output / name).symlink_to(tmp_path / "mine")
    with pytest.raises(SearchError, match=f"{name} is a link to .*mine; remove"):
        prepare(output, resume=True)
    assert not any((tmp_path / "mine").iterdir())


class TestParents:
    def test_are_not_made(self, tmp_path: Path) -> None:
        for make in (
            lambda path: prepare(path),
            lambda path: write_artifact(digits_artifact(), path),
            lambda path: write_artifact(digits_artifact(), path.with_suffix(".matar")),
            lambda path: mt.export(
                digits_artifact(), "w8a8", path.with_suffix(".tflite")
            ),
        ):
            with pytest.raises(MatarError, match=r"at .*none/such, found none; make"):
                make(tmp_path / "none" / "such" / "file")
            assert not any(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["search", "export", "package", "train"])
    def test_nor_by_programs(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_digits(tmp_path)
        before = names_in(tmp_path)
        end = {"search": "", "export": ".tflite"}.get(name, ".matar")
        values: dict[str, Any] = {
            "search": {"artifact": str(tmp_path / "net.matar"), "targets": ["mpic"]},
            "export": {"artifact": str(tmp_path / "net.matar"), "policies": ["w8a8"]},
            "package": {"model": str(tmp_path / "net.matar")},
            "train": {"recipe": "digits_resnet8"},
        }[name]
        line = fails(capsys, name, **values, output=str(tmp_path / f"no/such/x{end}"))
        assert f"write x{end} in at {tmp_path / 'no/such'}, found none" in line
        assert names_in(tmp_path) == before


class TestOverwrite:
    def test_removes_what_a_run_writes(self, output: Path) -> None:
        (output / ".mpic.0123456789abcdef").mkdir()
        (output / ".run.json.0123456789abcdef").write_text("{")
        before = (output / "run.json").read_text()
        assert "Overwriting" in prepare(output, overwrite=True, created="2030-01-01")
        assert names_in(output) == KEPT
        assert (output / "run.json").read_text() != before

    def test_the_working_directory(
        self, output: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody can remove it by the name '.', and a mount point by no name."""
        monkeypatch.chdir(output)
        prepare(Path(), overwrite=True)
        assert names_in(Path.cwd()) == KEPT
        assert "Resuming" in prepare(Path(), resume=True)

    def test_a_link(self, output: Path, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to(output)
        prepare(link, overwrite=True)
        assert link.is_symlink()
        assert names_in(output) == KEPT
        link.unlink()
        link.symlink_to(tmp_path / "later")
        prepare(link)
        assert names_in(tmp_path / "later") == KEPT

    def test_what_cannot_be_removed_leaves_a_run_to_overwrite(
        self, output: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a kill does; whichever file it is."""
        unlink = Path.unlink

        def refuse(path: Path, **how: Any) -> None:
            if path == stuck:
                raise PermissionError(13, "Permission denied", str(path))
            unlink(path, **how)

        monkeypatch.setattr(Path, "unlink", refuse)
        files = sorted(path for path in output.iterdir() if path.is_file())
        for stuck in files:
            if stuck.name != "run.json":
                with pytest.raises(PermissionError, match=stuck.name):
                    prepare(output, overwrite=True)
        stuck = None
        assert "Resuming" in prepare(output, resume=True)
        assert "Overwriting" in prepare(output, overwrite=True)
        assert names_in(output) == KEPT

    @pytest.mark.parametrize(
        "name",
        [
            *("notes.txt", "network.matar", ".git/config", "mpic.toml", "mpic2/a"),
            *("mpic/notes.txt", "mpic/front.svg", "mpic/policy_00.json/a"),
            *("report.html/a", ".mpic.0123", "mine.sqlite", "w4a4/policy_00.json"),
        ],
    )
    def test_what_no_run_writes_is_in_the_way_and_nothing_is_removed(
        self, output: Path, name: str
    ) -> None:
        for parent in (path for path in Path(name).parents if path.suffix):
            (output / parent).unlink(missing_ok=True)
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text("years")
        before = names_in(output)
        with pytest.raises(SearchError, match=r"nothing but .*; move it") as e:
            prepare(output, overwrite=True)
        # One name, that of the entry or of the folder that it is in.
        assert any(f"/run/{part}; " in str(e.value) for part in parts_of(name))
        assert names_in(output) == before

    def test_only_names_of_folders_are_folders_of_targets(
        self, output: Path, tmp_path: Path
    ) -> None:
        """A record that was changed by hand leads nowhere else."""
        victim = tmp_path / ".else.0123456789abcdef"
        victim.mkdir()
        record = json.loads((output / "run.json").read_text())
        for name in ("../else", "", str(tmp_path / "else")):
            record["targets"] = {name: "digest"}
            (output / "run.json").write_text(json.dumps(record))
            with pytest.raises(SearchError, match="no names of folders"):
                prepare(output, overwrite=True)
        assert victim.is_dir()


def parts_of(name: str) -> list[str]:
    path = Path(name)
    return [path.as_posix(), *(one.as_posix() for one in path.parents)]


class TestResume:
    def test_what_is_in_the_folder_of_a_target_would_be_lost(
        self, output: Path
    ) -> None:
        """The folder is replaced when the target has been searched again."""
        (output / "notes.txt").write_text("years")
        assert "Resuming" in prepare(output, resume=True)
        (output / "mpic/notes.txt").write_text("years")
        with pytest.raises(SearchError, match=r"nothing but .*/mpic/notes\.txt; move"):
            prepare(output, resume=True)


class TestStore:
    @pytest.mark.parametrize("name", ["mpic/mine", "mpic/a/mine", "mpic", "run.json"])
    def test_where_the_run_writes_it_would_be_lost(
        self, tmp_path: Path, name: str
    ) -> None:
        store = tmp_path / "run" / name
        (tmp_path / "run").mkdir()
        with pytest.raises(SearchError, match=r"takes the place of, got .*; name"):
            prepare(tmp_path / "run", store=store)
        assert not any((tmp_path / "run").iterdir())

    def test_also_behind_a_link(self, output: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(output)
        store = tmp_path / "link/mpic/mine"
        with pytest.raises(SearchError, match="takes the place of"):
            prepare(output, store=store, resume=True)
        for path in (output / "mpic").iterdir():
            path.unlink()
        (output / "mpic").rmdir()
        (tmp_path / "disk").mkdir()
        (output / "mpic").symlink_to(tmp_path / "disk")
        with pytest.raises(SearchError, match=r"mpic is a link to .*disk; remove"):
            prepare(output, store=tmp_path / "disk/mine", resume=True)

    def test_beside_the_folders_of_targets_it_stays(self, output: Path) -> None:
        for name in ("mine.sqlite", "mpic.sqlite", "evaluations.sqlite"):
            (output / name).unlink(missing_ok=True)
            assert "Resuming" in prepare(output, store=output / name, resume=True)
            assert (output / name).stat().st_size
