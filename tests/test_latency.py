"""Latency of files on this machine: turns, caching, operators."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from fixtures.digits import digits_artifact

from matar_tf.errors import ExportError
from matar_tf.tflite import latency
from matar_tf.tflite._schema import op_name, parse_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.latency import (
    LatencyCache,
    measure_latencies,
    measure_latency_ms,
    profile_operators,
)
from matar_tf.tflite.runtime import Runner


@pytest.fixture(scope="module")
def content() -> bytes:
    artifact = digits_artifact()
    return ModelBuilder(artifact).build(artifact.space.named("w8a8"))


class TestMeasureLatencies:
    def test_it_returns_quartiles_around_the_median(self, content):
        found = measure_latencies([content, content], num_threads=2, num_repeats=9)
        assert len(found) == 2
        for one in found:
            assert 0 < one.low_ms <= one.median_ms <= one.high_ms
            assert (one.num_repeats, one.num_threads) == (9, 2)

    def test_files_take_turns(self, content, monkeypatch):
        # This clock gives every second run another time than the first: run in turns,
        # each file has a time of its own; run one after the other, both would mix.
        ticks = iter(range(10**6))
        monkeypatch.setattr(
            time,
            "perf_counter",
            lambda: float(1 if (tick := next(ticks)) % 4 == 3 else 1000 * (tick % 4)),
        )
        first, second = measure_latencies([content, content], num_repeats=5)
        assert first.median_ms == 1000 * 1000
        assert second.median_ms == (1 - 2000) * 1000

    @pytest.mark.parametrize("changes", [{"num_threads": 0}, {"num_repeats": 0}])
    def test_numbers_below_one_are_refused(self, content, changes):
        with pytest.raises(ExportError, match="at least 1 thread and 1 repeat"):
            measure_latencies([content], **changes)

    def test_a_file_that_is_none_is_refused(self):
        with pytest.raises(ExportError, match="Expected a TFLite model"):
            measure_latencies([b"no model"])


class TestMeasureLatencyMs:
    def test_is_positive_and_the_median_of_the_runs(self, content, monkeypatch):
        runner = Runner(content)
        assert 0 < measure_latency_ms(runner, num_runs=5) < 1e3
        ticks = iter([0.0, 1.0, 10.0, 15.0, 20.0, 22.0])
        monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
        assert measure_latency_ms(runner, num_runs=3) == 2000.0


class TestProfileOperators:
    def test_each_operator_has_its_share(self, content):
        profile = profile_operators(content, num_repeats=5)
        model = parse_model(content)
        operators = model.subgraphs[0].operators
        assert [one.operator for one in profile] == [
            op_name(model, operator) for operator in operators
        ]
        assert sum(one.own_ms for one in profile) == pytest.approx(profile[-1].total_ms)
        assert profile[0].own_ms == profile[0].total_ms > 0
        assert {"stem_relu", "hidden_relu"} <= {one.name for one in profile}

    def test_groups_give_what_one_group_gives(self, content, monkeypatch):
        sizes: list[list[int]] = []
        times = latency.measure_latencies

        def measured(contents, **options):
            sizes.append([len(one) for one in contents])
            return times(contents, **options)

        monkeypatch.setattr(latency, "measure_latencies", measured)
        together = profile_operators(content, num_repeats=1)
        monkeypatch.setattr(latency, "_GROUP_BYTES", 1)
        alone = profile_operators(content, num_repeats=1)
        assert [one.name for one in alone] == [one.name for one in together]
        assert sizes[1:] == [[size] for size in sizes[0]]
        # Kernels that are cut off are not stored.
        assert sizes[0][-1] < 4000 < sizes[0][0] < len(content)

    def test_too_many_operators_are_refused(self, monkeypatch, content):
        count = len(parse_model(content).subgraphs[0].operators)
        monkeypatch.setattr(latency, "_MAX_OPERATORS", count - 1)
        with pytest.raises(ExportError, match=rf"most {count - 1} op.*, got {count};"):
            profile_operators(content)


class TestLatencyCache:
    def test_what_is_known_is_not_measured_again(self, content, tmp_path: Path):
        cache = LatencyCache(tmp_path / "latency.json")
        first = cache.measure({"a": content}, num_threads=1, num_repeats=3)
        again = LatencyCache(tmp_path / "latency.json").measure(
            {"b": content}, num_threads=1, num_repeats=3
        )
        assert again == {"b": first["a"]}

    @pytest.mark.parametrize("changes", [{"num_threads": 2}, {"num_repeats": 4}])
    def test_every_setting_is_part_of_the_key(self, content, changes, tmp_path: Path):
        cache = LatencyCache(tmp_path / "latency.json")
        settings = {"num_threads": 1, "num_repeats": 3}
        cache.measure({"a": content}, **settings)
        cache.measure({"a": content}, **(settings | changes))
        document = json.loads((tmp_path / "latency.json").read_text())
        assert len(document["latencies"]) == 2

    @pytest.mark.parametrize(
        "text", ["{", "{}", '{"schema_version": 2}', '{"schema_version": 1}']
    )
    def test_a_damaged_file_is_named(self, content, text, tmp_path: Path):
        (tmp_path / "latency.json").write_text(text)
        cache = LatencyCache(tmp_path / "latency.json")
        with pytest.raises(ExportError, match=r"latency\.json.*Remove the file"):
            cache.measure({"a": content}, num_threads=1, num_repeats=3)
