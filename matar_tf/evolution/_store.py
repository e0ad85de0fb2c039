"""The evaluation store: metrics that were measured once and need not be again.

One SQLite file for all targets and all runs of an artifact. Several processes may
read and write it. Each result is a transaction of its own, so a killed run loses
none that it had received. Each row has a checksum, so that a damaged file gives an
error and no other metric. A file of an earlier version, without checksums, is taken as
it is when it is opened, and has them from then on.

The file may come from a stranger: nothing but the one table may be in it, and its
schema is read as text before anything of it is used. Its journal is looked at before
SQLite sees it, which removes the file that a journal names.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from matar_tf.errors import StoreError
from matar_tf.figures import is_metric_value
from matar_tf.policy import Policy

__all__ = ["EvaluationStore"]

_APPLICATION_ID: Final = 0x6D617461  # "mata", in the header of the file
_MAGIC: Final = b"SQLite format 3\0"
_APPLICATION_ID_AT: Final = 68  # in the header
_HEADER_SIZE: Final = 100
_SCHEMA_VERSION: Final = 3
_OLD_VERSION: Final = 2  # without checksums
_CHECKSUM_SIZE: Final = 16  # bytes
_MAX_LENGTH: Final = 1 << 20  # bytes of a row or of a statement
# A journal that ends so names the journal of a transaction over several databases
# before it, which SQLite removes once it has rolled back
# (https://www.sqlite.org/fileformat.html#the_rollback_journal).
_JOURNAL_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")
_BUSY_TIMEOUT_S: Final = 30.0
_WAL_ATTEMPTS: Final = 100
_WAL_PAUSE_S: Final = 0.02

_TABLE: Final = """
CREATE TABLE evaluations (
  artifact_digest TEXT NOT NULL,
  data_digest TEXT NOT NULL,
  policy_digest TEXT NOT NULL,
  metric TEXT NOT NULL,
  value REAL NOT NULL,{checksum}
  PRIMARY KEY (artifact_digest, data_digest, policy_digest, metric)
) WITHOUT ROWID
"""
_TABLES: Final = {
    _OLD_VERSION: _TABLE.format(checksum=""),
    _SCHEMA_VERSION: _TABLE.format(checksum="\n  checksum BLOB NOT NULL,"),
}
_COUNT = """
SELECT COUNT(*) FROM (
  SELECT DISTINCT artifact_digest, data_digest, policy_digest FROM evaluations
)
"""
_SELECT = """
SELECT metric, value, checksum FROM evaluations
WHERE artifact_digest = ? AND data_digest = ? AND policy_digest = ?
"""
_SELECT_OLD = """
SELECT artifact_digest, data_digest, policy_digest, metric, value FROM evaluations
"""
_UPSERT = "INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?, ?, ?, ?)"


class EvaluationStore:
    """A file of metrics by artifact, data, policy and name.

    Use it as a context manager, in the thread that made it; processes open it each
    for themselves.

    Attributes:
      path: The SQLite file; made if there is none.
    """

    def __init__(self, path: str | Path, *, timeout_s: float = _BUSY_TIMEOUT_S) -> None:
        """Opens or makes the file.

        Args:
          path: The file.
          timeout_s: How long to wait for other processes that hold it.

        Raises:
          StoreError: If the file is not an evaluation store or holds more than one,
            is corrupt, or cannot be written.
        """
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise StoreError(
                f"Expected an existing folder for the evaluation store, got "
                f"{str(self.path)!r}; make the folder first."
            )
        with self._errors():
            self._check_files()
            self._connection = sqlite3.connect(
                self.path, timeout=timeout_s, isolation_level=None
            )
        self._timeout_s = timeout_s
        try:
            with self._errors():
                self._prepare()
        except StoreError:
            self._connection.close()
            raise

    def __enter__(self) -> EvaluationStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Returns how many policies were measured, counted by network and samples."""
        with self._errors():
            row = self._connection.execute(_COUNT)
            return int(row.fetchone()[0])

    def get(
        self,
        policies: Iterable[Policy],
        *,
        metrics: Sequence[str],
        artifact_digest: str,
        data_digest: str,
    ) -> dict[Policy, dict[str, float]]:
        """Returns the metrics of those policies of which all of them are known.

        Args:
          policies: The policies.
          metrics: Names of the metrics; others are left out.
          artifact_digest: Of the network.
          data_digest: Of the samples, and of what else metrics depend on.

        Raises:
          StoreError: If the file is corrupt.
        """
        known: dict[Policy, dict[str, float]] = {}
        with self._errors():
            for policy in policies:
                key = (artifact_digest, data_digest, policy.digest())
                rows = self._connection.execute(_SELECT, key).fetchall()
                if {name for name, *_ in rows} >= set(metrics):
                    stored = {
                        name: self._checked(key, name, *row) for name, *row in rows
                    }
                    known[policy] = {name: stored[name] for name in metrics}
        return known

    def put(
        self,
        policy: Policy,
        metrics: Mapping[str, float],
        *,
        artifact_digest: str,
        data_digest: str,
    ) -> None:
        """Keeps the metrics of a policy, in place of earlier ones of their names.

        Raises:
          StoreError: If a metric is no finite number or, of a share, not within 0..1,
            or the file cannot be written.
        """
        key = (artifact_digest, data_digest, policy.digest())
        rows = [_row(key, name, float(value)) for name, value in metrics.items()]
        with self._errors(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(_UPSERT, rows)

    def close(self) -> None:
        """Closes the file; more calls do nothing."""
        self._connection.close()

    def _checked(
        self, key: tuple[str, ...], name: object, value: object, checksum: object
    ) -> float:
        """Returns a value that was read, which must be as it was written."""
        if (
            not isinstance(name, str)
            or not isinstance(value, float)
            or checksum != _checksum(key, name, value)
        ):
            found = str(name)[:80]
            raise self._corrupt(f"a value of {found!r} does not match its checksum")
        return value

    def _check_files(self) -> None:
        """Refuses what SQLite would follow to other files.

        Raises:
          StoreError: If one of them is a link or no file, or the journal names another.
          OSError: If it cannot be read.
        """
        journal = Path(f"{self.path}-journal")
        beside = [Path(f"{self.path}{end}") for end in ("-wal", "-shm")]
        for path in (self.path, journal, *beside):
            if not stat.S_ISREG(_mode_of(path)):
                raise StoreError(
                    f"Expected an evaluation store in files of its own, got a link or "
                    f"no file at {path}; name another store, or the file itself that "
                    "a link leads to."
                )
        if _end_of(journal, len(_JOURNAL_MAGIC)) == _JOURNAL_MAGIC:
            raise StoreError(
                f"Expected an evaluation store alone, but {journal} names another "
                "file, which SQLite would remove; no store of matar_tf has such a "
                "journal: remove it, or name another store."
            )

    def _prepare(self) -> None:
        execute = self._connection.execute
        # Damaged letters are told by the checksum.
        self._connection.text_factory = functools.partial(
            str, encoding="utf-8", errors="replace"
        )
        if sys.version_info >= (3, 11):
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_LENGTH)
        execute("PRAGMA trusted_schema = OFF")
        execute("PRAGMA cell_size_check = ON")
        with self._connection:  # one snapshot: another process may be making the file
            execute("BEGIN")
            self._check_kind()
        state = execute("PRAGMA quick_check(1)").fetchone()[0]
        if state != "ok":
            raise sqlite3.DatabaseError(" ".join(state.split()))
        self._use_wal()
        # With WAL this survives the death of the process; only a power cut can lose
        # the last few results, and never the file.
        execute("PRAGMA synchronous = NORMAL")
        with self._connection:  # commits, or rolls back on an error
            execute("BEGIN IMMEDIATE")
            self._check_kind()  # again: another process may have been here
            version = execute("PRAGMA user_version").fetchone()[0]
            if version == _SCHEMA_VERSION:
                return
            rows: list[tuple[object, ...]] = []
            if version == _OLD_VERSION:
                rows = self._old_rows()
                execute("DROP TABLE evaluations")
            execute(_TABLES[_SCHEMA_VERSION])
            self._connection.executemany(_UPSERT, rows)
            execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def _old_rows(self) -> list[tuple[object, ...]]:
        """Returns the rows of a file of the earlier version, with checksums."""
        rows: list[tuple[object, ...]] = []
        for *key, name, value in self._connection.execute(_SELECT_OLD):
            is_text = all(type(one) is str for one in (*key, name))
            if not is_text or not is_metric_value(name, value):
                raise self._corrupt(f"{str(value)[:80]} is no value of a metric")
            rows.append(_row(tuple(key), name, value))
        return rows

    def _check_kind(self) -> None:
        """Refuses other databases and other versions; an empty file is ours."""
        execute = self._connection.execute
        application_id = execute("PRAGMA application_id").fetchone()[0]
        version = execute("PRAGMA user_version").fetchone()[0]
        schema = execute("SELECT type, name, sql FROM sqlite_master").fetchall()
        if not schema and version == 0:
            return
        if application_id != _APPLICATION_ID:
            raise StoreError(
                f"Expected an evaluation store of matar_tf at {str(self.path)!r}, got "
                "another SQLite database; name another file."
            )
        if version not in _TABLES:
            raise StoreError(
                f"Expected an evaluation store of schema version {_SCHEMA_VERSION} at "
                f"{str(self.path)!r}, got version {version}; name another file, or "
                "use the version of matar_tf that wrote it."
            )
        expected = ("table", "evaluations", _TABLES[version].strip())
        other = [one for one in schema if (*one[:2], str(one[2]).strip()) != expected]
        if other or len(schema) != 1:
            found = [f"{kind} {str(name)[:80]!r}" for kind, name, _ in other or schema]
            raise StoreError(
                f"Expected one table of evaluations and nothing else in the store at "
                f"{str(self.path)!r}, got another {', '.join(found[:3]) or 'schema'}; "
                "somebody added to it or it is damaged: name another file, the metrics "
                "will be measured anew."
            )

    def _use_wal(self) -> None:
        # The switch to WAL does not wait for other processes by itself.
        attempts = min(_WAL_ATTEMPTS, 1 + int(self._timeout_s / _WAL_PAUSE_S))
        for attempt in range(attempts):
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                if attempt == attempts - 1:
                    raise
                time.sleep(_WAL_PAUSE_S)
            else:
                return

    @contextmanager
    def _errors(self) -> Generator[None, None, None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise StoreError(
                f"Expected an evaluation store that can be read and written at "
                f"{str(self.path)!r}, got: {error}. Check its permissions, the space "
                "on the disk and other processes that hold it."
            ) from error
        except (sqlite3.Error, UnicodeDecodeError) as error:  # that in its message
            raise self._corrupt(str(error)) from error

    def _corrupt(self, reason: str) -> StoreError:
        # Nobody is told to delete a file that may hold something else.
        remedy = "Delete it, or name" if _is_store(self.path) else "Name"
        return StoreError(
            f"Expected an evaluation store at {str(self.path)!r}, got a file that is "
            f"not one or is corrupt: {reason}. {remedy} another file; the metrics will "
            "be measured anew."
        )


def _row(key: tuple[str, ...], name: str, value: float) -> tuple[object, ...]:
    """Returns the row of a metric.

    Raises:
      StoreError: If it has no such value.
    """
    if not is_metric_value(name, value):
        raise StoreError(
            f"Expected a finite number for the metric {name!r}, of a share within "
            f"0..1, got {value!r}; mend what measures it."
        )
    number = value + 0.0  # SQLite knows no -0.0
    return (*key, name, number, _checksum(key, name, number))


def _checksum(key: tuple[str, ...], name: str, value: float) -> bytes:
    """Returns the first bytes of the SHA-256 of a row."""
    text = "\0".join((*key, name, value.hex()))
    return hashlib.sha256(text.encode()).digest()[:_CHECKSUM_SIZE]


def _mode_of(path: Path) -> int:
    """Returns the mode of a file, or of a link itself; a file's if there is none."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return stat.S_IFREG


def _end_of(path: Path, num_bytes: int) -> bytes:
    """Returns the last bytes of a file, none if there is no file.

    Raises:
      OSError: If it cannot be read.
    """
    try:
        # Another process may be making the store, and remove its journal meanwhile.
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - num_bytes, 0))
            return file.read(num_bytes)
    except FileNotFoundError:
        return b""


def _is_store(path: Path) -> bool:
    """Whether the header of a file says that it is a store of this project."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_SIZE)
    except OSError:
        return False
    application_id = int.from_bytes(header[_APPLICATION_ID_AT:][:4], "big")
    return header.startswith(_MAGIC) and application_id == _APPLICATION_ID
