"""The evaluation store: metrics that were measured once and need not be again.

One SQLite file for all targets and all runs of an artifact. Several processes may
read and write it. Each result is a transaction of its own, so a killed run loses
none that it had received.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from matar_tf.errors import StoreError
from matar_tf.policy import Policy

__all__ = ["EvaluationStore"]

_APPLICATION_ID: Final = 0x6D617461  # "mata", in the header of the file
_MAGIC: Final = b"SQLite format 3\0"
_APPLICATION_ID_AT: Final = 68  # in the header
_HEADER_SIZE: Final = 100
_SCHEMA_VERSION: Final = 2
_BUSY_TIMEOUT_S: Final = 30.0
_WAL_ATTEMPTS: Final = 100
_WAL_PAUSE_S: Final = 0.02

_CREATE_TABLE = """
CREATE TABLE evaluations (
  artifact_digest TEXT NOT NULL,
  data_digest TEXT NOT NULL,
  policy_digest TEXT NOT NULL,
  metric TEXT NOT NULL,
  value REAL NOT NULL,
  PRIMARY KEY (artifact_digest, data_digest, policy_digest, metric)
) WITHOUT ROWID
"""
_COUNT = """
SELECT COUNT(*) FROM (
  SELECT DISTINCT artifact_digest, data_digest, policy_digest FROM evaluations
)
"""
_SELECT = """
SELECT metric, value FROM evaluations
WHERE artifact_digest = ? AND data_digest = ? AND policy_digest = ?
"""
_UPSERT = "INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?, ?, ?)"


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
          StoreError: If the file is not an evaluation store, is corrupt, or cannot
            be written.
        """
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise StoreError(
                f"Expected an existing folder for the evaluation store, got "
                f"{str(self.path)!r}; make the folder first."
            )
        with self._errors():
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
                stored = dict(self._connection.execute(_SELECT, key))
                if stored.keys() >= set(metrics):
                    known[policy] = {name: stored[name] for name in metrics}
        if not all(
            type(one) is float for row in known.values() for one in row.values()
        ):
            raise self._corrupt("a metric is no number")
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
          StoreError: If the file cannot be written.
        """
        key = (artifact_digest, data_digest, policy.digest())
        with self._errors(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                _UPSERT, [(*key, name, value) for name, value in metrics.items()]
            )

    def close(self) -> None:
        """Closes the file; more calls do nothing."""
        self._connection.close()

    def _prepare(self) -> None:
        execute = self._connection.execute
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
            if execute("PRAGMA user_version").fetchone()[0] == 0:
                execute(_CREATE_TABLE)
                execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def _check_kind(self) -> None:
        """Refuses other databases and other versions; an empty file is ours."""
        execute = self._connection.execute
        application_id = execute("PRAGMA application_id").fetchone()[0]
        version = execute("PRAGMA user_version").fetchone()[0]
        num_tables = execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if num_tables == 0 and version == 0:
            return
        if application_id != _APPLICATION_ID:
            raise StoreError(
                f"Expected an evaluation store of matar_tf at {str(self.path)!r}, got "
                "another SQLite database; name another file."
            )
        if version != _SCHEMA_VERSION:
            raise StoreError(
                f"Expected an evaluation store of schema version {_SCHEMA_VERSION} at "
                f"{str(self.path)!r}, got version {version}; name another file, or "
                "use the version of matar_tf that wrote it."
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
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"Expected an evaluation store that can be read and written at "
                f"{str(self.path)!r}, got: {error}. Check its permissions, the space "
                "on the disk and other processes that hold it."
            ) from error
        except sqlite3.Error as error:
            raise self._corrupt(str(error)) from error

    def _corrupt(self, reason: str) -> StoreError:
        # Nobody is told to delete a file that may hold something else.
        remedy = "Delete it, or name" if _is_store(self.path) else "Name"
        return StoreError(
            f"Expected an evaluation store at {str(self.path)!r}, got a file that is "
            f"not one or is corrupt: {reason}. {remedy} another file; the metrics will "
            "be measured anew."
        )


def _is_store(path: Path) -> bool:
    """Whether the header of a file says that it is a store of this project."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_SIZE)
    except OSError:
        return False
    application_id = int.from_bytes(header[_APPLICATION_ID_AT:][:4], "big")
    return header.startswith(_MAGIC) and application_id == _APPLICATION_ID
