"""The folder of a run: what it may hold, and what a run may take the place of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from matar_tf.errors import SearchError, StoreError, TargetError
from matar_tf.evolution import EvaluationStore
from matar_tf.io.files import check_parent, leftovers, remove, write_atomically
from matar_tf.io.json_reader import json_text
from matar_tf.packaged import check_no_member
from matar_tf.run.plan import Run
from matar_tf.run.record import RUN_FILE, RunRecord, read_record, record_of

__all__ = [
    "LATENCY_FILE",
    "MATRIX_FILES",
    "PAGE_FILE",
    "RESULT_FILE",
    "STORE_FILE",
    "check_folder_names",
    "drop_run",
    "has_just_begun",
    "is_empty",
    "prepare_folder",
    "write_record",
]

RESULT_FILE: Final = "result.json"
LATENCY_FILE: Final = "latency.json"
MATRIX_FILES: Final = ("matrix.json", "matrix.csv", "matrix.md")
PAGE_FILE: Final = "report.html"
_FILES: Final = (RUN_FILE, LATENCY_FILE, *MATRIX_FILES, PAGE_FILE)
STORE_FILE: Final = "evaluations.sqlite"
_STORE_FILES: Final = tuple(
    f"{STORE_FILE}{end}" for end in ("", "-wal", "-shm", "-journal")
)
_TARGET_FILE: Final = re.compile(
    r"front\.(json|csv|md)|result\.json|policy_\d+\.(json|tflite)"
)


def prepare_folder(
    run: Run, output: Path, *, resume: bool = False, overwrite: bool = False
) -> tuple[RunRecord, str]:
    """Makes an output folder ready for a run and records the run in it.

    Whatever is wrong is found before anything is removed or written.

    Args:
      run: The run.
      output: The folder; made if there is none.
      resume: Whether to go on with the run that is there.
      overwrite: Whether to remove the run that is there.

    Returns:
      The record as it stands in the folder, and a sentence that says what was found and
      what happens to it.

    Raises:
      MatarError: If the folder holds something else, or a run that was asked for
        something else, or neither `resume` nor `overwrite` is given for a run with
        a result or one that has not ended, or the store cannot be had.
    """
    names = [target.name for target in run.targets]
    check_folder_names(names)
    record = record_of(run)
    message = _check_folder(output, record, resume=resume, overwrite=overwrite)
    store = run.settings.store
    if store is not None:
        _check_store(store, output, names, overwrite=overwrite)
    elif not overwrite and (output / STORE_FILE).exists():
        store = output / STORE_FILE
    if store is not None:
        EvaluationStore(store).close()
    record = _begin_folder(output, record, resume=resume, overwrite=overwrite)
    return record, message


def _check_folder(
    output: Path, record: RunRecord, *, resume: bool, overwrite: bool
) -> str:
    """Checks that a folder can take a run; changes nothing.

    Args:
      output: The folder.
      record: What the run is asked for.
      resume: Whether to go on with the run that is there.
      overwrite: Whether to remove the run that is there.

    Returns:
      A sentence that says what was found and what happens to it.

    Raises:
      SearchError: If the folder holds something else, or a run that was asked for
        something else, or neither `resume` nor `overwrite` is given for a run; or if
        what no run writes would be removed.
    """
    if resume and overwrite:
        raise SearchError(
            "Expected resume=True or overwrite=True, got both; choose one."
        )
    if output.exists() and not output.is_dir():
        raise SearchError(
            f"Expected a folder, or nothing yet, at {output}, got a file; choose "
            "another output."
        )
    check_parent(output, SearchError)
    check_no_member(output, SearchError)
    if is_empty(output):
        return f"Writing to {output}."
    earlier = _earlier_run(output)
    if overwrite:
        _entries_of_run(output, earlier)
        return f"Overwriting the run in {output}."
    if not resume and earlier.has_failed:
        _check_target_folders(output, record)
        _check_links(output, record)
        return f"Writing to {output}, where no search has had a result before."
    if not resume:
        raise SearchError(
            f"Expected an empty output, but {output} holds a run of "
            f"{earlier.created}; pass resume=True to go on with it, overwrite=True to "
            "replace it, or choose another output."
        )
    difference = record.difference(earlier)
    if difference is not None:
        raise SearchError(
            f"{difference}; choose another output than {output}, or overwrite=True."
        )
    _check_target_folders(output, earlier)
    _check_links(output, earlier)
    return (
        f"Resuming the run in {output}: stored measurements are reused, fronts "
        "and files are written again."
    )


def _earlier_run(output: Path) -> RunRecord:
    """Returns the record of the run that is in a folder."""
    if not (output / RUN_FILE).exists():
        raise SearchError(
            f"Expected an empty output, or one with the {RUN_FILE} of an earlier run, "
            f"but {output} holds other files (there is no {RUN_FILE}); choose another "
            "output."
        )
    return read_record(output)


def check_folder_names(names: Iterable[str]) -> None:
    """Checks that targets of some names can have their folders in that of a run.

    Raises:
      TargetError: If a file of the run has the name of one, or two have the same on a
        disk that knows no upper case.
    """
    taken = dict.fromkeys((*_FILES, *_STORE_FILES), "a file of the run")
    for name in names:
        if name.lower() in taken:
            raise TargetError(
                f"Expected a target whose folder can have its name, got {name!r}, "
                f"which {taken[name.lower()]} has, in upper or lower case; change the "
                "key 'name' in its file."
            )
        taken[name.lower()] = "another target"


def _check_store(
    store: Path, output: Path, targets: Iterable[str], *, overwrite: bool
) -> None:
    """Checks that a store is not where a run removes or replaces something.

    Raises:
      SearchError: If it is in the folder of a target, has the name of a file of the
        run, or is in a run that is overwritten.
    """
    place, folder = store.resolve(), output.resolve()
    if overwrite and place.is_relative_to(folder):
        raise SearchError(
            f"Expected a store outside of the run that is overwritten, got {store} in "
            f"{output}; move it."
        )
    replaced = [folder / name for name in (*targets, *_FILES)]
    if any(place.is_relative_to(path.resolve()) for path in replaced):
        raise SearchError(
            f"Expected a store that no file or folder of the run takes the place of, "
            f"got {store} in {output}; name another place."
        )


def _begin_folder(
    output: Path, record: RunRecord, *, resume: bool, overwrite: bool
) -> RunRecord:
    """Makes a folder that was checked ready for a run and records the run in it.

    A run that is resumed keeps what it has on record, and loses what a process that
    was killed has left half written. Of one that is overwritten the record goes last,
    so that after a kill in between it can be overwritten still; the folder stays.
    Arguments are those of `prepare_folder`.

    Returns:
      The record as it stands in the folder.
    """
    output = output.resolve()  # a link may lead to what is not there yet
    if (output / RUN_FILE).exists():
        earlier = _earlier_run(output)
        gone: list[Path] = []
        if overwrite:
            gone = _entries_of_run(output, earlier)
        elif resume:
            record = record.resumed_from(earlier)
            gone = _leftovers_of_run(output, earlier)
        for path in gone:
            remove(path)
    output.mkdir(exist_ok=True)
    write_record(output, record)
    return record


def has_just_begun(output: Path) -> bool:
    """Returns whether a run has left its record and an empty store, and no more."""
    if not {path.name for path in output.iterdir()} <= {RUN_FILE, *_STORE_FILES}:
        return False
    if not (output / STORE_FILE).exists():
        return True
    try:
        with EvaluationStore(output / STORE_FILE) as store:
            return len(store) == 0
    except StoreError:
        return False


def drop_run(output: Path, *, folder: bool) -> None:
    """Removes what `prepare_folder` made of an empty output; with the `folder` or not.

    For a run that has measured nothing and leaves nothing to go on with.
    """
    output = output.resolve()
    for name in (RUN_FILE, *_STORE_FILES):
        (output / name).unlink(missing_ok=True)
    if folder:
        output.rmdir()


def write_record(output: Path, record: RunRecord) -> None:
    """Writes the record of a run into its folder."""
    write_atomically(output / RUN_FILE, json_text(record.to_json()).encode())


def _entries_of_run(output: Path, record: RunRecord) -> list[Path]:
    """Returns what a run has left in its folder, but for its record.

    Raises:
      SearchError: If there is something that no run writes.
    """
    is_folder = dict.fromkeys((*_FILES, *_STORE_FILES), False)
    is_folder |= dict.fromkeys(record.targets, True)
    unfinished = _leftovers_of_run(output, record)
    for path in sorted(output.iterdir()):
        if path not in unfinished and is_folder.get(path.name) != path.is_dir():
            raise _foreign(path)
    _check_target_folders(output, record)
    return [path for path in sorted(output.iterdir()) if path.name != RUN_FILE]


def _check_target_folders(output: Path, record: RunRecord) -> None:
    """Checks that the folders of targets, which are replaced, hold nothing else."""
    for folder in (output / name for name in record.targets):
        if folder.exists() and not folder.is_dir():
            raise _foreign(folder)
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_dir() or not _TARGET_FILE.fullmatch(path.name):
                raise _foreign(path)


def _check_links(output: Path, record: RunRecord) -> None:
    """Checks that no link leads out of the folder of a run that is gone on with."""
    home = output.resolve()
    for name in (*_FILES, *_STORE_FILES, *record.targets):
        if not (home / name).resolve().is_relative_to(home):
            raise SearchError(
                f"Expected files and folders of the run within {output}, but "
                f"{output / name} is a link to {(home / name).resolve()}; remove the "
                "link."
            )


def _foreign(path: Path) -> SearchError:
    return SearchError(
        f"Expected nothing but what a run writes where a run is replaced, got {path}; "
        "move it elsewhere, or choose another output."
    )


def _leftovers_of_run(output: Path, record: RunRecord) -> list[Path]:
    """Returns what processes that were killed had begun to write."""
    names = (*record.targets, *_FILES)
    return [path for name in names for path in leftovers(output / name)]


def is_empty(output: Path) -> bool:
    """Returns whether an output folder holds nothing, or is not there."""
    return not output.is_dir() or not any(output.iterdir())
