"""The evaluation store: processes, kills, damage."""

import math
import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.paths import GOLDEN, ROOT
from fixtures.toy_search import (
    Counting,
    options,
    plain_run,
    provenance,
    run,
    same_search,
    toy_metrics,
    toy_problem,
    toy_space,
)

from matar_tf.errors import SearchError, StoreError
from matar_tf.evolution import EvaluationStore, evaluate_in_turn, search
from matar_tf.policy import Policy
from matar_tf.results import Objective


def alter(path, statement):
    """Changes a store, as somebody else might."""
    other = sqlite3.connect(path)
    other.execute(statement)
    other.commit()
    other.close()


def rows_of(path):
    other = sqlite3.connect(path)
    columns = "artifact_digest, data_digest, policy_digest, metric, value"
    rows = other.execute(f"SELECT {columns} FROM evaluations").fetchall()
    other.close()
    return sorted(rows)


def journal(content: bytes, *, names: bytes) -> bytes:
    """Returns the rollback journal of a database, empty but for the name at its end.

    As https://www.sqlite.org/fileformat.html#the_rollback_journal has it: magic,
    records, nonce, pages, sector and page size; then, after the number of the page that
    holds locks, the name, its length, its checksum and the magic again.
    """
    magic = bytes.fromhex("d9d505f920a163d7")
    page_size = int.from_bytes(content[16:18], "big")
    numbers = (0, 0, len(content) // page_size, 512, page_size)
    start = magic + struct.pack(">5I", *numbers)
    lock = struct.pack(">I", 0x40000000 // page_size + 1)
    tail = struct.pack(">2I", len(names), sum(names)) + magic
    return start.ljust(512, b"\0") + (lock + names + tail if names else b"")


class TestStore:
    def test_keeps_metrics_by_artifact_data_and_policy(self, tmp_path):
        policies = [toy_space().named(name) for name in ("w8a8", "w4a4")]
        metrics = {"accuracy": 0.1 + 0.2, "loss": 1e-300}
        key = {"artifact_digest": "a", "data_digest": "d"}
        both = {"metrics": ("accuracy", "loss")}
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            store.put(policies[0], metrics, **key)
            assert store.get(policies, **both, **key) == {policies[0]: metrics}
        with EvaluationStore(str(tmp_path / "store.sqlite")) as store:
            assert store.get(policies, **both, **key) == {policies[0]: metrics}
            for other in ({"artifact_digest": "b"}, {"data_digest": "e"}):
                assert store.get(policies, **both, **{**key, **other}) == {}
            assert len(store) == 1

    def test_keeps_each_metric_for_itself(self, tmp_path):
        policy = toy_space().named("w8a8")
        key = {"artifact_digest": "a", "data_digest": "d"}
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            store.put(policy, {"accuracy": 0.5}, **key)
            assert store.get([policy], metrics=["accuracy", "loss"], **key) == {}
            store.put(policy, {"loss": 2.0}, **key)
            store.put(policy, {"accuracy": 0.75}, **key)
            for names, expected in (
                (["accuracy"], {"accuracy": 0.75}),
                (["loss", "accuracy"], {"accuracy": 0.75, "loss": 2.0}),
            ):
                known = store.get([policy], metrics=names, **key)
                assert known == {policy: expected}
            assert len(store) == 1

    def test_is_shared_by_targets_and_by_runs(self, tmp_path):
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            cold = run(store=store)
            warm = run(store=store)
            other_target = run(
                toy_problem(target="other"),
                store=store,
                objectives=(Objective.parse("loss"), Objective.parse("weight_bytes")),
                patience=None,
            )
        assert (cold.num_evaluated, cold.num_reused) == (160, 0)
        assert (warm.num_evaluated, warm.num_reused) == (0, 160)
        assert same_search(cold, warm)
        assert same_search(cold, plain_run())
        assert other_target.num_reused >= 9  # at least the uniform policies
        assert other_target.num_evaluated + other_target.num_reused == 160

    def test_other_data_are_other_evaluations(self, tmp_path):
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            run(store=store)
            result = search(
                toy_problem(),
                evaluate_in_turn(toy_metrics),
                options=options(),
                provenance=provenance(data_digest="other"),
                store=store,
            )
        assert result.num_reused == 0

    def test_only_runs_of_the_same_metrics_share(self, tmp_path):
        only_loss = replace(toy_problem(), metric_names=("loss",))
        loss = (Objective.parse("loss"), Objective.parse("latency_ms"))
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            first = run(only_loss, store=store, objectives=loss)
            both = run(store=store, objectives=loss)
            assert both.num_reused == 0
            assert run(store=store, objectives=loss).num_evaluated == 0
            again = run(only_loss, store=store, objectives=loss)
        # What the store knows beside the loss changes nothing.
        assert again.num_evaluated == 0
        assert same_search(first, again)

    @pytest.mark.parametrize("num_before", [1, 30, 77, 159])
    def test_resumed_run_repeats_itself_without_measuring_twice(
        self, tmp_path, num_before
    ):
        path = tmp_path / "store.sqlite"
        broken, rest = Counting(stop_after=num_before), Counting()
        with EvaluationStore(path) as store, pytest.raises(RuntimeError):
            run(evaluate_many=evaluate_in_turn(broken), store=store)
        with EvaluationStore(path) as store:
            result = run(evaluate_many=evaluate_in_turn(rest), store=store)
        assert same_search(result, plain_run())
        assert result.num_reused == num_before
        assert result.num_evaluated == len(rest.policies) == 160 - num_before
        assert not set(broken.policies) & set(rest.policies)

    def test_run_killed_by_the_system_is_resumed(self, tmp_path):
        path = tmp_path / "store.sqlite"
        script = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from fixtures import toy_search
from matar_tf.evolution import EvaluationStore, evaluate_in_turn

num_measured = 0

def slow(policy):
    global num_measured
    num_measured += 1
    time.sleep(0 if num_measured <= 50 else 60)
    print("measured", flush=True)
    return toy_search.toy_metrics(policy)

toy_search.run(
    evaluate_many=evaluate_in_turn(slow), store=EvaluationStore({str(path)!r})
)
"""
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        ) as process:
            for _ in range(50):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        with EvaluationStore(path) as store:
            num_kept = len(store)
            result = run(store=store)
        # All but the one that was just being written when the signal came.
        assert num_kept in (49, 50)
        assert result.num_reused == num_kept
        assert same_search(result, plain_run())

    def test_two_processes_make_and_write_one_store(self, tmp_path):
        path = tmp_path / "store.sqlite"
        script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from matar_tf.policy import Policy
from matar_tf.evolution import EvaluationStore

start, stop = int(sys.argv[1]), int(sys.argv[2])
sys.stdin.readline()
for number in range(100):  # both make each file at about the same time
    EvaluationStore(f"{tmp_path}/{{number}}.sqlite").close()
with EvaluationStore({str(path)!r}) as store:
    for index in range(start, stop):
        policy = Policy(weights={{f"layer{{index}}": 8}}, activations={{}})
        store.put(
            policy, {{"index": index}}, artifact_digest="a", data_digest="d"
        )
"""
        spans = (("0", "150"), ("100", "250"))  # some are written by both
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", script, *span], stdin=subprocess.PIPE
            )
            for span in spans
        ]
        for process in processes:  # both are ready before either may start
            process.stdin.write(b"go\n")
            process.stdin.flush()
        for process in processes:
            process.communicate(timeout=60)
            assert process.returncode == 0
        policies = [
            Policy(weights={f"layer{index}": 8}, activations={}) for index in range(250)
        ]
        with EvaluationStore(path) as store:
            known = store.get(
                policies, metrics=["index"], artifact_digest="a", data_digest="d"
            )
        assert [known[policy]["index"] for policy in policies] == list(range(250))

    def test_a_store_that_another_process_holds_is_an_error_with_advice(self, tmp_path):
        path = tmp_path / "store.sqlite"
        policy, metrics = toy_space().named("w8a8"), {"accuracy": 1.0}
        with EvaluationStore(path, timeout_s=0.05) as store:
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(SearchError, match=r"locked.*other processes"):
                store.put(
                    policy, {"accuracy": 1.0}, artifact_digest="a", data_digest="d"
                )
            other.execute("ROLLBACK")
            other.close()
            store.put(policy, metrics, artifact_digest="a", data_digest="d")

    def test_opening_waits_for_another_process_that_is_opening(self, tmp_path):
        path = tmp_path / "store.sqlite"
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN")
        other.execute("SELECT * FROM sqlite_master").fetchall()  # a reader's lock
        with pytest.raises(SearchError, match="locked"):
            EvaluationStore(path, timeout_s=0.02)
        later = threading.Timer(0.1, other.execute, ["COMMIT"])
        later.start()
        with EvaluationStore(path) as store:
            assert len(store) == 0
        later.join()
        other.close()

    def test_a_file_that_is_no_database_is_refused_and_left_alone(self, tmp_path):
        path = tmp_path / "store.sqlite"
        path.write_text("accuracy,latency\n" * 100)
        with pytest.raises(
            SearchError, match=r"corrupt.*\. Name another file"
        ) as caught:
            EvaluationStore(path)
        assert "Delete" not in str(caught.value)
        assert path.read_text() == "accuracy,latency\n" * 100

    def test_nobody_is_told_to_delete_another_database(self, tmp_path):
        path = tmp_path / "other.sqlite"
        path.write_bytes(b"SQLite format 3\0" + b"\x55" * 5000)
        with pytest.raises(
            SearchError, match=r"corrupt.*\. Name another file"
        ) as caught:
            EvaluationStore(path)
        assert "Delete" not in str(caught.value)

    def test_another_database_is_refused_and_left_alone(self, tmp_path):
        path = tmp_path / "other.sqlite"
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE addresses (name TEXT)")
        other.commit()
        other.close()
        before = path.read_bytes()
        with pytest.raises(SearchError, match=r"another SQLite database; name another"):
            EvaluationStore(path)
        assert path.read_bytes() == before

    def test_a_later_schema_version_is_refused(self, tmp_path):
        path = tmp_path / "store.sqlite"
        EvaluationStore(path).close()
        other = sqlite3.connect(path)
        other.execute("PRAGMA user_version = 4")
        other.close()
        with pytest.raises(SearchError, match=r"schema version 3.*got version 4"):
            EvaluationStore(path)

    def test_a_corrupt_store_is_refused_with_advice(self, tmp_path):
        path, metrics = tmp_path / "store.sqlite", {"accuracy": 1.0}
        with EvaluationStore(path) as store:
            for index in range(300):
                policy = Policy(weights={f"layer{index}": 8}, activations={})
                store.put(policy, metrics, artifact_digest="a", data_digest="d")
        content = bytearray(path.read_bytes())
        content[4096 : 4096 + 2048] = b"\x55" * 2048
        path.write_bytes(content)
        with pytest.raises(SearchError, match=r"is corrupt.*Delete it"):
            EvaluationStore(path)

    @pytest.mark.parametrize(
        "change",
        [
            "value = '{'",
            "value = 0.5",
            "value = 5.0",
            "metric = 'loss'",
            "checksum = x'00'",
            "checksum = 'text'",
        ],
    )
    def test_a_row_that_was_altered_is_an_error_with_advice(self, tmp_path, change):
        path, metrics = tmp_path / "store.sqlite", ["accuracy"]
        policy = toy_space().named("w8a8")
        key = {"artifact_digest": "a", "data_digest": "d"}
        with EvaluationStore(path) as store:
            store.put(policy, {"accuracy": 0.75}, **key)
        alter(path, f"UPDATE evaluations SET {change}")
        with EvaluationStore(path) as store:
            names = ["loss"] if "loss" in change else metrics
            with pytest.raises(SearchError, match=r"match its checksum.*Delete it, or"):
                store.get([policy], metrics=names, **key)

    def test_the_row_of_another_policy_is_not_taken_for_its_own(self, tmp_path):
        path = tmp_path / "store.sqlite"
        one, other = (toy_space().named(name) for name in ("w8a8", "w4a4"))
        key = {"artifact_digest": "a", "data_digest": "d"}
        with EvaluationStore(path) as store:
            store.put(one, {"accuracy": 0.75}, **key)
            move = f"UPDATE evaluations SET policy_digest = '{other.digest()}'"
            alter(path, move)
            assert store.get([one], metrics=["accuracy"], **key) == {}
            with pytest.raises(SearchError, match="match its checksum"):
                store.get([other], metrics=["accuracy"], **key)

    def test_no_flipped_bit_gives_another_metric(self, tmp_path):
        path, rng = tmp_path / "store.sqlite", random.Random(0)
        key = {"artifact_digest": "a" * 64, "data_digest": "d" * 64}
        truth = {
            Policy(weights={f"layer{index}": 8}, activations={}): {
                "accuracy": rng.random()
            }
            for index in range(20)
        }
        with EvaluationStore(path) as store:
            for policy, metrics in truth.items():
                store.put(policy, metrics, **key)
        content, told = path.read_bytes(), 0
        for _ in range(300):
            place = rng.randrange(8 * len(content))
            damaged = bytearray(content)
            damaged[place // 8] ^= 1 << place % 8
            path.write_bytes(damaged)
            try:
                with EvaluationStore(path) as store:
                    known = store.get(truth, metrics=["accuracy"], **key)
                assert known.items() <= truth.items(), place
            except StoreError:
                told += 1
            for beside in tmp_path.glob("store.sqlite-*"):
                beside.unlink()
        assert told > 30

    @pytest.mark.parametrize(
        ("value", "fits"),
        [(0.0, True), (1.0, True), (-0.001, False), (1.001, False), (math.nan, False)],
    )
    def test_a_share_is_within_its_range(self, tmp_path, value, fits):
        key = {"artifact_digest": "a", "data_digest": "d"}
        policy = toy_space().named("w8a8")
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            for name in ("accuracy", "top_5_accuracy"):
                if fits:
                    store.put(policy, {name: value}, **key)
                    continue
                with pytest.raises(StoreError, match=r"of a share within 0\.\.1, got"):
                    store.put(policy, {name: value}, **key)
            assert len(store) == fits

    def test_other_metrics_are_finite(self, tmp_path):
        key = {"artifact_digest": "a", "data_digest": "d"}
        policy = toy_space().named("w8a8")
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            store.put(policy, {"loss": -0.0, "my_metric": -7e300}, **key)
            known = store.get([policy], metrics=["loss", "my_metric"], **key)
            assert known == {policy: {"loss": 0.0, "my_metric": -7e300}}
            with pytest.raises(StoreError, match="finite"):
                store.put(policy, {"loss": math.inf}, **key)

    @pytest.mark.parametrize(
        ("statement", "found"),
        [
            (
                "CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN "
                "UPDATE evaluations SET value = 1.0; END",
                "trigger 't'",
            ),
            ("CREATE VIEW v AS SELECT * FROM evaluations", "view 'v'"),
            ("CREATE TABLE other (x)", "table 'other'"),
            ("CREATE INDEX i ON evaluations (metric)", "index 'i'"),
            ("ALTER TABLE evaluations ADD COLUMN more", "table 'evaluations'"),
            ("DROP TABLE evaluations", "another schema"),
        ],
    )
    @pytest.mark.parametrize("old", [False, True])
    def test_what_somebody_added_is_refused_and_left_alone(
        self, tmp_path, statement, found, old
    ):
        path = tmp_path / "store.sqlite"
        if old:
            shutil.copy(GOLDEN / "run/evaluations.sqlite", path)
        else:
            EvaluationStore(path).close()
        alter(path, statement)
        before = path.read_bytes()
        with pytest.raises(StoreError, match=f"nothing else.*{found}"):
            EvaluationStore(path)
        assert path.read_bytes() == before


class TestStoreOfVersion2:
    """That of version 0.1.0 had no checksums."""

    def test_keeps_its_rows_and_gets_checksums(self, tmp_path):
        path = Path(shutil.copy(GOLDEN / "run/evaluations.sqlite", tmp_path))
        before = rows_of(path)
        for _ in range(2):  # as one of then, and as one of today
            with EvaluationStore(path) as store:
                assert len(store) == len(before) / 2 > 10
            assert rows_of(path) == before

    @pytest.mark.parametrize(
        "change",
        ["value = 5.0 WHERE metric = 'accuracy'", "value = 'x'", "metric = x'00'"],
    )
    def test_with_what_is_no_metric_is_refused(self, tmp_path, change):
        path = Path(shutil.copy(GOLDEN / "run/evaluations.sqlite", tmp_path))
        once = "policy_digest = (SELECT MIN(policy_digest) FROM evaluations)"
        word = "AND" if "WHERE" in change else "WHERE metric = 'loss' AND"
        alter(path, f"UPDATE evaluations SET {change} {word} {once}")
        before = path.read_bytes()
        with pytest.raises(StoreError, match=r"no value of a metric.*Delete it"):
            EvaluationStore(path)
        assert path.read_bytes() == before


class TestPaths:
    def test_a_missing_folder_and_a_folder_as_file_are_errors(self, tmp_path):
        with pytest.raises(SearchError, match="make the folder first"):
            EvaluationStore(tmp_path / "none" / "store.sqlite")
        with pytest.raises(SearchError, match="got a link or no file"):
            EvaluationStore(tmp_path)


class TestOtherFiles:
    """What the files of a store lead to."""

    @pytest.mark.parametrize("mode", ["WAL", "DELETE"])
    def test_a_journal_removes_none(self, tmp_path, mode):
        path, precious = tmp_path / "store.sqlite", tmp_path / "precious"
        EvaluationStore(path).close()
        alter(path, f"PRAGMA journal_mode = {mode}")
        content, beside = path.read_bytes(), Path(f"{path}-journal")
        precious.write_text("thesis")
        beside.write_bytes(journal(content, names=bytes(precious)))
        with pytest.raises(StoreError, match="names another file"):
            EvaluationStore(path)
        assert precious.exists()
        assert path.read_bytes() == content
        # SQLite alone, which shows that the journal is one.
        rows_of(path)
        assert not precious.exists()

    def test_a_journal_of_its_own_is_rolled_back(self, tmp_path):
        path = tmp_path / "store.sqlite"
        EvaluationStore(path).close()
        for content in (journal(path.read_bytes(), names=b""), b"", b"\0" * 4):
            Path(f"{path}-journal").write_bytes(content)
            with EvaluationStore(path) as store:
                assert len(store) == 0

    @pytest.mark.parametrize("end", ["-journal", "-wal", "-shm"])
    def test_a_pipe_is_not_waited_for(self, tmp_path, end):
        path = tmp_path / "store.sqlite"
        EvaluationStore(path).close()
        os.mkfifo(f"{path}{end}")
        with pytest.raises(StoreError, match="got a link or no file"):
            EvaluationStore(path)

    @pytest.mark.parametrize("end", ["", "-journal", "-wal", "-shm"])
    def test_links_are_refused(self, tmp_path, end):
        path, other = tmp_path / "store.sqlite", tmp_path / "other"
        if end:
            EvaluationStore(path).close()
        other.touch()
        Path(f"{path}{end}").symlink_to(other)
        with pytest.raises(StoreError, match="got a link or no file"):
            EvaluationStore(path)
        assert other.read_bytes() == b""
