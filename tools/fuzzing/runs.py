"""Folders of runs, and evaluation stores."""

from __future__ import annotations

import functools
import json
import random
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Final

from matar_tf.api import report
from matar_tf.data import Data
from matar_tf.evolution import EvaluationStore, SearchOptions
from matar_tf.policy import Policy
from matar_tf.run.folder import prepare_folder
from matar_tf.run.plan import Run, make_run
from matar_tf.run.settings import RunSettings
from matar_tf.targets import load_target
from tools.fuzzing.inputs import ContradictionError, Door, Input, Kind
from tools.fuzzing.programs import UnreadableError, is_readable, run
from tools.fuzzing.seeds import ROOT, any_policy, seeds
from tools.fuzzing.values import change_bytes, change_document, flip_bit

__all__ = ["RUN", "STORE"]

_RUN, _STORE, _CANARY = "run", "store.sqlite", "canary"
_GOLDEN: Final = ROOT / "tests/golden/run"
_READ: Final = ("run.json", "mpic/result.json", "ne16_gap9/result.json")
_FIRST: Final = 6


@functools.cache
def _files() -> dict[str, bytes]:
    return {
        str(path.relative_to(_GOLDEN)): path.read_bytes()
        for path in sorted(_GOLDEN.rglob("*"))
        if path.is_file()
    }


def _make_run(rng: random.Random) -> Input:
    files = dict(_files())
    name = rng.choice(_READ if rng.random() < 0.9 else sorted(files))
    links: dict[str, str] = {}
    if rng.random() < 0.05:
        links[f"{_RUN}/{name}"] = rng.choice(["/etc/passwd", f"../{_CANARY}", "loop"])
        del files[name]
    elif name.endswith(".json"):
        files[name] = change_document(rng, files[name])
    else:
        files[name] = change_bytes(rng, files[name])
    placed = {f"{_RUN}/{one}": content for one, content in files.items()}
    return Input(
        kind=RUN.name,
        door=rng.choice(["report", "report", "program", "resume", "overwrite"]),
        change=name,
        files={**placed, _CANARY: b"stays"},
        links=links,
    )


def _report(folder: Path) -> None:
    found = report(folder / _RUN)
    for text in (found.to_text(), found.to_markdown(), found.to_csv()):
        if not is_readable(text):
            raise UnreadableError(text[:200])
    json.dumps(found.to_json(), allow_nan=False)
    found._repr_html_()


def _program(folder: Path) -> None:
    for form in ("text", "csv", "svg"):
        words = [f"--format={form}"] + (["--target=mpic"] if form == "svg" else [])
        run("report", folder / _RUN, *words)


@functools.cache
def _plan() -> Run:
    """A run as that of the golden folder, of another network."""
    seed = seeds()[_FIRST]
    data = Data(x_test=seed.samples, y_test=seed.labels)
    settings = RunSettings(options=SearchOptions(max_evaluations=16), progress=False)
    return make_run(seed.artifact, [load_target("mpic")], data, settings)


def _resume(folder: Path) -> None:
    _prepare(folder, resume=True)


def _overwrite(folder: Path) -> None:
    _prepare(folder, overwrite=True)


def _prepare(folder: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    prepare_folder(_plan(), folder / _RUN, resume=resume, overwrite=overwrite)
    if (folder / _CANARY).read_bytes() != b"stays":
        raise ContradictionError("a file beside the run was changed")


_RUN_DOORS: Final[dict[str, Door]] = {
    "report": _report,
    "program": _program,
    "resume": _resume,
    "overwrite": _overwrite,
}
RUN: Final = Kind(name="run folder", share=4, make=_make_run, doors=_RUN_DOORS)

# ---- stores ------------------------------------------------------------------------

_DIGESTS: Final = {"artifact_digest": "a" * 64, "data_digest": "d" * 64}
_METRICS: Final = ("accuracy", "loss")


@functools.cache
def _policies() -> tuple[Policy, ...]:
    space = seeds()[_FIRST].artifact.space
    rng = random.Random(0)
    return tuple(any_policy(rng, space) for _ in range(12))


def _metrics_of(number: int) -> dict[str, float]:
    return {"accuracy": (7 * number % 100) / 100, "loss": 0.1 + number / 3}


@functools.cache
def _store() -> bytes:
    """A store of a few policies, in one file."""
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / _STORE
        with EvaluationStore(path) as store:
            for number, policy in enumerate(_policies()):
                store.put(policy, _metrics_of(number), **_DIGESTS)
        return path.read_bytes()
    finally:
        shutil.rmtree(folder)


def _make_store(rng: random.Random) -> Input:
    content = _store()
    words, contradicts = "a bit", False
    match rng.randrange(10):
        case 0 | 1 | 2 | 3 | 4:
            content = flip_bit(rng, content)
        case 5 | 6:
            content, words = change_bytes(rng, content), "bytes"
        case _:
            content, words = _by_sql(rng, content)
            contradicts = "TRIGGER" in words or "VIEW" in words
    return Input(
        kind=STORE.name,
        door="open",
        change=words,
        files={_STORE: content},
        must_be_refused=contradicts,
    )


_STATEMENTS: Final = (
    "UPDATE evaluations SET value = 0.99",
    "UPDATE evaluations SET value = 1e999",
    "UPDATE evaluations SET value = 'x'",
    "UPDATE evaluations SET value = x'00'",
    "UPDATE evaluations SET metric = 'accuracy' WHERE metric = 'loss' AND value > 9",
    "UPDATE OR IGNORE evaluations SET policy_digest = (SELECT MIN(policy_digest) "
    "FROM evaluations)",
    "DELETE FROM evaluations WHERE metric = 'loss'",
    "CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN DELETE FROM evaluations; END",
    "CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN UPDATE evaluations SET value "
    "= 1; END",
    "CREATE VIEW v AS SELECT * FROM evaluations",
    "ALTER TABLE evaluations ADD COLUMN more TEXT",
    "DROP TABLE evaluations",
    "CREATE TABLE more (x)",
    "PRAGMA user_version = 1",
    "PRAGMA user_version = 99",
    "PRAGMA application_id = 1",
)


def _by_sql(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Changes a store by a statement that is not the product's."""
    statement = rng.choice(_STATEMENTS)
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / _STORE
        path.write_bytes(content)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = DELETE")
        try:
            connection.execute(statement)
        except sqlite3.Error:
            return content, "nothing"
        finally:
            connection.close()
        return path.read_bytes(), statement
    finally:
        shutil.rmtree(folder)


def _open(folder: Path) -> None:
    """What a store returns was put there, or was measured anew and put there now."""
    extra = {"accuracy": 0.25, "loss": 0.75}
    with EvaluationStore(folder / _STORE) as store:
        known = store.get(_policies(), metrics=_METRICS, **_DIGESTS)
        for number, policy in enumerate(_policies()):
            if policy in known and known[policy] != _metrics_of(number):
                raise ContradictionError(f"{known[policy]} for {_metrics_of(number)}")
        len(store)
        key = {**_DIGESTS, "data_digest": "e" * 64}
        store.put(_policies()[0], extra, **key)
        again = store.get(_policies()[:1], metrics=_METRICS, **key)
        if again != {_policies()[0]: extra}:
            raise ContradictionError(f"{again} of what was put in")


STORE: Final = Kind(name="store", share=4, make=_make_store, doors={"open": _open})
