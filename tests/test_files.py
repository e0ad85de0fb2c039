"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from matar_tf.errors import ArtifactError, ExportError, SearchError
from matar_tf.io.files import (
    check_parent,
    leftovers,
    new_folder,
    read_at_most,
    remove,
    write_atomically,
)
from matar_tf.io.json_reader import JsonReader, json_text


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _write(path: Path) -> None:
    write_atomically(path, b"content")


def _fill(path: Path) -> None:
    with new_folder(path) as folder:
        (folder / "member").write_bytes(b"content")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_permissions_are_those_that_the_umask_leaves(
    tmp_path: Path, umask: int
) -> None:
    write_atomically(tmp_path / "file", b"content")
    with new_folder(tmp_path / "folder") as folder:
        (folder / "member").write_bytes(b"content")
    assert _mode(tmp_path / "file") == 0o666 & ~umask
    assert _mode(tmp_path / "folder") == 0o777 & ~umask


def test_a_file_is_replaced_and_its_folder_not_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with pytest.raises(FileNotFoundError):
        write_atomically(path, b"first")
    with pytest.raises(ArtifactError, match=r"write file in at .*new, found"):
        check_parent(path, ArtifactError)
    assert not path.parent.exists()
    path.parent.mkdir()
    check_parent(path, ArtifactError)
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [one.name for one in path.parent.iterdir()] == ["file"]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "file", b"content")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_names_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    for write in (_write, _fill):
        with pytest.raises(OSError, match="No space left") as caught:
            write(tmp_path / "mine")
        assert caught.value.filename == str(tmp_path / "mine")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["no_such", "file"])
def test_what_cannot_be_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    for write in (_write, _fill):
        path = tmp_path / folder / "mine"
        with pytest.raises(OSError, match="director") as caught:
            write(path)
        assert caught.value.filename.startswith(str(path))


def test_errors_of_other_files_stay_as_they_are(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="no_such"),
        new_folder(tmp_path / "folder"),
    ):
        (tmp_path / "no_such").read_bytes()


def test_a_folder_takes_the_place_of_another_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with new_folder(path) as folder:
        (folder / "old").write_bytes(b"")
    with new_folder(path) as folder:
        (folder / "new").write_bytes(b"")
        assert [one.name for one in path.iterdir()] == ["old"]
    assert [one.name for one in path.iterdir()] == ["new"]


def test_a_folder_that_fails_leaves_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with new_folder(path) as folder:
        (folder / "old").write_bytes(b"")

    def interrupted() -> None:
        with new_folder(path) as folder:
            (folder / "new").write_bytes(b"")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]
    assert [one.name for one in path.iterdir()] == ["old"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    with new_folder(path) as folder:
        (folder / "old").write_bytes(b"")
    replace = Path.replace

    def failing(one: Path, other: Path) -> Path:
        if (one / "new").exists():
            raise OSError("no space left")
        return replace(one, other)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="no space left"), new_folder(path) as folder:
        (folder / "new").write_bytes(b"")
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]
    assert [one.name for one in path.iterdir()] == ["old"]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_json_that_could_not_be_read_is_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_text({"minutes": [number]})
    document = {"minutes": [1.5, None]}
    assert JsonReader(SearchError).parse(json_text(document), "a test") == document


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(
    tmp_path: Path,
) -> None:
    """What is left is what these functions write, so it is taken from them."""
    path = tmp_path / "mp.c"
    path.mkdir()
    writing = new_folder(path)
    folder = writing.__enter__()
    (folder / "policy_00.tflite").write_bytes(b"half")
    (tmp_path / ".mp.c.0123456789abcdef").write_bytes(b"half of a file")
    others = {".mp.c.txt", ".mpxc.0123456789abcdef", "mp.c.0123456789abcdef", ".mp.c"}
    for name in others:
        (tmp_path / name).write_bytes(b"")
    for one in leftovers(path):
        remove(one)
    assert {one.name for one in tmp_path.iterdir()} == {"mp.c", *others}


def test_of_a_link_only_the_link_is_removed(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "years").write_bytes(b"")
    file.write_bytes(b"")
    for one in (folder, file, tmp_path / "nothing"):
        link = tmp_path / "link"
        link.symlink_to(one)
        remove(link)
    assert sorted(one.name for one in tmp_path.rglob("*")) == [
        "file",
        "folder",
        "years",
    ]
    remove(folder)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    link, real = tmp_path / "link", tmp_path / "real"
    real.mkdir()
    (real / "old").write_bytes(b"")
    link.symlink_to(real)
    with new_folder(link) as folder:
        (folder / "new").write_bytes(b"")
    assert link.is_symlink()
    assert [one.name for one in real.iterdir()] == ["new"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link", "real"]


def test_a_link_to_a_file_stays_one(tmp_path: Path) -> None:
    link, real = tmp_path / "link.txt", tmp_path / "there" / "real.txt"
    link.symlink_to(Path("there") / "real.txt")
    with pytest.raises(ArtifactError, match=r"at .*there, found none"):
        check_parent(link, ArtifactError)
    real.parent.mkdir()
    for content in (b"new", b"replaced"):  # a link to nothing, too
        write_atomically(link, content)
        assert link.is_symlink()
        assert real.read_bytes() == content
    assert [one.name for one in real.parent.iterdir()] == ["real.txt"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.txt", "there"]


def test_leftovers_behind_a_link_are_found(tmp_path: Path) -> None:
    link, real = tmp_path / "link.txt", tmp_path / "there" / "real.txt"
    link.symlink_to(real)
    real.parent.mkdir()
    assert leftovers(link) == []
    write_atomically(link, b"")
    (real.parent / ".real.txt.0123456789abcdef").write_bytes(b"half")
    (half,) = leftovers(link)
    assert half.read_bytes() == b"half"


def test_a_link_to_itself_is_replaced(tmp_path: Path) -> None:
    link = tmp_path / "link.txt"
    link.symlink_to(link)
    write_atomically(link, b"new")
    assert not link.is_symlink()
    assert link.read_bytes() == b"new"


def test_a_folder_that_cannot_be_put_back_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_bytes(b"")
    replace = Path.replace

    def only_away(one: Path, other: Path) -> Path:
        if other == path:
            raise PermissionError(errno.EACCES, "denied", str(one), None, str(other))
        return replace(one, other)

    monkeypatch.setattr(Path, "replace", only_away)
    with pytest.raises(PermissionError), new_folder(path) as folder:
        (folder / "new").write_bytes(b"")
    (kept,) = tmp_path.iterdir()
    assert [one.name for one in kept.iterdir()] == ["old"]


def test_an_error_of_something_else_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError) as caught, new_folder(tmp_path / "folder"):
        raise BrokenPipeError(errno.EPIPE, "broken pipe")
    assert caught.value.filename is None


class TestReadAtMost:
    def test_both_sides_of_the_limit(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"12345")
        (tmp_path / "link").symlink_to("file")
        for name in ("file", "link"):
            assert read_at_most(tmp_path / name, 5, ExportError) == b"12345"
            with pytest.raises(ExportError, match="at most 4 bytes"):
                read_at_most(tmp_path / name, 4, ExportError)

    def test_what_is_no_file_of_a_disk(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "itself").symlink_to("itself")
        for path, words in (
            (tmp_path / "pipe", "got a device or a pipe"),
            (Path("/dev/zero"), "got a device or a pipe"),
            (tmp_path, "got: Is a directory"),
            (tmp_path / "none", "got: No such file"),
            (tmp_path / "itself", "got: Too many levels"),
        ):
            with pytest.raises(ExportError, match=words):
                read_at_most(path, 5, ExportError)
