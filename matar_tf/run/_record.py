"""The record of a run, run.json, and what the folder that it is in may hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from matar_tf.errors import SearchError, TargetError
from matar_tf.io.files import leftovers, remove, write_atomically
from matar_tf.io.json_reader import JsonReader, json_text
from matar_tf.results import SearchResult
from matar_tf.tflite.profiles import PROFILES

__all__ = [
    "FILE_SIZE",
    "LATENCY_FILE",
    "MATRIX_FILES",
    "PAGE_FILE",
    "RESULT_FILE",
    "RUN_SCHEMA_VERSION",
    "STORE_FILE",
    "begin_folder",
    "check_folder",
    "check_folder_names",
    "check_store",
    "planned_evaluations",
    "read_failures",
    "write_history",
]

RUN_SCHEMA_VERSION: Final = 1
_RUN_FILE: Final = "run.json"
RESULT_FILE: Final = "result.json"
LATENCY_FILE: Final = "latency.json"
MATRIX_FILES: Final = ("matrix.json", "matrix.csv", "matrix.md")
PAGE_FILE: Final = "report.html"
_FILES: Final = (_RUN_FILE, LATENCY_FILE, *MATRIX_FILES, PAGE_FILE)
STORE_FILE: Final = "evaluations.sqlite"
_STORE_FILES: Final = tuple(
    f"{STORE_FILE}{end}" for end in ("", "-wal", "-shm", "-journal")
)
_TARGET_FILE: Final = re.compile(
    r"front\.(json|csv|md)|result\.json|policy_\d+\.(json|tflite)"
)
_SEARCHES: Final = "searches"  # in the record
_TARGETS: Final = "targets"  # too
_FAILURES: Final = "failures"  # too
_BUDGET: Final = "max_evaluations"
_PLAN: Final = "planned_evaluations"
FILE_SIZE: Final = "file_bytes"
# Of two runs in one folder, the second must ask for the same in these. It may have
# more evaluations, more time, more processes, and other files.
_SAME_WHEN_RESUMED: Final = (
    "artifact_digest",
    "data_digest",
    "seed",
    "metrics",
    "objectives",
    "limits",
    "fixed",
    "starts",
    "holdout",
    "targets",
    "follow_up_share",
    "population_size",
    "sensitivity",
    "oversampling",
    "crossover_prob",
    "mutation_prob",
)


def check_folder(
    output: Path, document: Mapping[str, Any], *, resume: bool, overwrite: bool
) -> str:
    """Checks that a folder can take a run; changes nothing.

    Args:
      output: The folder.
      document: What the run is asked for, as JSON.
      resume: Whether to go on with the run that is there.
      overwrite: Whether to remove the run that is there.

    Returns:
      A sentence that says what was found and what happens to it.

    Raises:
      SearchError: If the folder holds something else, or a run that was asked for
        something else, or neither `resume` nor `overwrite` is given for a run; or if
        what no run writes would be removed.
    """
    if output.exists() and not output.is_dir():
        raise SearchError(
            f"Expected a folder, or nothing yet, at {output}, got a file; choose "
            "another output."
        )
    if not _holds_something(output):
        return f"Writing to {output}."
    earlier = _read_run(output)
    if overwrite:
        _entries_of_run(output, earlier)
        return f"Overwriting the run in {output}."
    if not resume:
        raise SearchError(
            f"Expected an empty output, but {output} holds a run of "
            f"{earlier.get('created')}; pass --resume to go on with it, "
            "--overwrite to replace it, or choose another output."
        )
    profile_keys = ["profile"] if _depends_on_profile(earlier, document) else []
    for key in (*_SAME_WHEN_RESUMED, *profile_keys):
        if earlier.get(key) != document[key]:
            raise SearchError(
                f"Expected to resume a run with the same {key}, but {output} "
                f"has {earlier.get(key)!r} and this run {document[key]!r}; "
                "choose another output, or --overwrite."
            )
    if document[_BUDGET] < earlier[_BUDGET]:
        raise SearchError(
            f"Expected to resume a run with at least as many evaluations, but {output} "
            f"has a {_BUDGET} of {earlier[_BUDGET]} and this run {document[_BUDGET]}, "
            "with which policies would be lost; choose another output, or --overwrite."
        )
    _check_target_folders(output, earlier)
    return (
        f"Resuming the run in {output}: stored measurements are reused, fronts "
        "and files are written again."
    )


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


def check_store(
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


def _depends_on_profile(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
    """Returns whether fronts follow from how files store kernels.

    They do where sizes of files count, or outputs differ from those of other profiles.
    """
    exact = [name for name, profile in PROFILES.items() if profile.exact]
    return FILE_SIZE in str([later["objectives"], later["limits"]]) or any(
        run.get("profile") not in exact for run in (earlier, later)
    )


def begin_folder(
    output: Path, document: Mapping[str, Any], *, resume: bool, overwrite: bool
) -> None:
    """Makes a folder that was checked ready for a run and records the run in it.

    A run that is resumed keeps what it has on record, and loses what a process that
    was killed has left half written. Of one that is overwritten the record goes last,
    so that after a kill in between it can be overwritten still; the folder stays.
    Arguments are those of `check_folder`.
    """
    output = output.resolve()  # a link may lead to what is not there yet
    document = {**document, _PLAN: document[_BUDGET]}
    if (output / _RUN_FILE).exists():
        earlier = _read_run(output)
        gone: list[Path] = []
        if overwrite:
            gone = _entries_of_run(output, earlier)
        elif resume:
            for key in (_SEARCHES, _FAILURES):
                document[key] = earlier[key]
            document[_PLAN] = _plan(earlier, document)
            gone = _leftovers_of_run(output, earlier)
        for path in gone:
            remove(path)
    output.mkdir(parents=True, exist_ok=True)
    content = json_text(document)
    write_atomically(output / _RUN_FILE, content.encode())


def write_history(
    output: Path,
    results: Iterable[SearchResult],
    left_out: Mapping[str, Mapping[str, str]],
    failures: Mapping[str, str],
) -> None:
    """Adds to the record of the run what its searches did, generation by generation.

    A failure stays on record until the target has a result.

    Args:
      output: The folder of the run.
      results: What they found.
      left_out: Why policies with a name are in no table, by target and name.
      failures: Why targets have no result, by name.
    """
    document = _read_run(output)
    searches = {
        result.target: {
            "num_evaluated": result.num_evaluated,
            "num_reused": result.num_reused,
            "stop_reason": result.stop_reason.value,
            "left_out": dict(left_out.get(result.target, {})),
            "history": [asdict(row) for row in result.history],
        }
        for result in results
    }
    failed = {**document[_FAILURES], **failures}
    document = {
        **document,
        _SEARCHES: {**document[_SEARCHES], **searches},
        _FAILURES: {one: why for one, why in failed.items() if one not in searches},
    }
    content = json_text(document)
    write_atomically(output / _RUN_FILE, content.encode())


def _plan(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> int:
    """Returns the number of evaluations that a run which is resumed is planned for.

    That of the run which began it, if they were fewer than a generation's: generations
    of other sizes would be another search, which might lack what was found.
    """
    planned: int = earlier[_PLAN]
    return planned if planned < earlier["population_size"] else later[_BUDGET]


def read_failures(output: Path) -> dict[str, str]:
    """Returns why targets of the run in a folder have no result, by name."""
    return _read_run(output)[_FAILURES]


def planned_evaluations(output: Path) -> int:
    """Returns the number of evaluations that the run in a folder is planned for."""
    return _read_run(output)[_PLAN]


def _entries_of_run(output: Path, record: Mapping[str, Any]) -> list[Path]:
    """Returns what a run has left in its folder, but for its record.

    Raises:
      SearchError: If there is something that no run writes.
    """
    is_folder = dict.fromkeys((*_FILES, *_STORE_FILES), False)
    is_folder |= dict.fromkeys(record[_TARGETS], True)
    unfinished = _leftovers_of_run(output, record)
    for path in sorted(output.iterdir()):
        if path not in unfinished and is_folder.get(path.name) != path.is_dir():
            raise _foreign(path)
    _check_target_folders(output, record)
    return [path for path in sorted(output.iterdir()) if path.name != _RUN_FILE]


def _check_target_folders(output: Path, record: Mapping[str, Any]) -> None:
    """Checks that the folders of targets, which are replaced, hold nothing else."""
    for folder in (output / name for name in record[_TARGETS]):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_dir() or not _TARGET_FILE.fullmatch(path.name):
                raise _foreign(path)


def _foreign(path: Path) -> SearchError:
    return SearchError(
        f"Expected nothing but what a run writes where a run is replaced, got {path}; "
        "move it elsewhere, or choose another output."
    )


def _leftovers_of_run(output: Path, record: Mapping[str, Any]) -> list[Path]:
    """Returns what processes that were killed had begun to write."""
    names = (*record[_TARGETS], *_FILES)
    return [path for name in names for path in leftovers(output / name)]


def _holds_something(output: Path) -> bool:
    return output.exists() and any(output.iterdir())


def _read_run(output: Path) -> dict[str, Any]:
    try:
        content = (output / _RUN_FILE).read_bytes()
        document = JsonReader(SearchError).parse(content, _RUN_FILE)
        if document["schema_version"] != RUN_SCHEMA_VERSION:
            raise SearchError(f"schema_version is {document['schema_version']!r}")
        if not isinstance(document["artifact_digest"], str):
            raise SearchError("artifact_digest is no text")
        for key in (_TARGETS, _SEARCHES, _FAILURES):
            if not isinstance(document.setdefault(key, {}), dict):
                raise SearchError(f"{key} is no object")
        for key, number in ((_BUDGET, 1), (_PLAN, document.get(_BUDGET, 1))):
            if type(document.setdefault(key, number)) is not int or document[key] < 1:
                raise SearchError(f"{key} is no number")
        names = document[_TARGETS]
        if any(not name or Path(name).name != name for name in names):
            raise SearchError(f"{_TARGETS} are no names of folders")
    except (OSError, LookupError, TypeError, SearchError) as error:
        raise SearchError(
            f"Expected an empty output, or one with the {_RUN_FILE} of an earlier run, "
            f"but {output} holds other files ({error}); choose another output."
        ) from error
    return document
