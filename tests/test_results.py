"""Results: frozen, strict, and the same after a trip through JSON."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest

from matar_tf.errors import PolicyError, SearchError
from matar_tf.policy import Policy
from matar_tf.results import (
    Candidate,
    Generation,
    Objective,
    Provenance,
    SearchResult,
    StopReason,
)

# A saved file of schema version 1: these names are for ever.
GOLDEN = """
{
  "schema_version": 1,
  "target": "example_npu",
  "objectives": [
    {"name": "accuracy", "maximize": true},
    {"name": "latency_ms", "maximize": false}
  ],
  "front": [
    {
      "name": "policy_00",
      "policy": {"schema_version": 1, "weights": {"conv": 4}, "activations": {"conv": 8}},
      "metrics": {"accuracy": 0.5, "loss": 1.25},
      "costs": {"latency_ms": 0.75, "energy_mj": null}
    }
  ],
  "references": [
    {
      "name": "w8a8",
      "policy": {"schema_version": 1, "weights": {"conv": 8}, "activations": {"conv": 8}},
      "metrics": {"accuracy": 0.5, "loss": 1.0},
      "costs": {"latency_ms": 1.5, "energy_mj": null}
    }
  ],
  "num_evaluated": 7,
  "num_reused": 2,
  "stop_reason": "enumerated",
  "history": [
    {
      "generation": 0,
      "num_evaluated": 7,
      "num_reused": 2,
      "best_metric": 0.5,
      "hypervolume": 1.0
    }
  ],
  "provenance": {
    "seed": 3,
    "command": "search",
    "versions": {"matar_tf": "0.1.0"},
    "artifact_digest": "aa",
    "data_digest": "bb",
    "num_samples": 100,
    "created": "2030-01-31T12:00:00+00:00"
  }
}
"""  # noqa: E501


def golden():
    return json.loads(GOLDEN)


def result():
    return SearchResult.from_json(golden())


class TestSearchResult:
    def test_golden_file_reads_and_writes_back_the_same(self):
        assert result().to_json() == golden()
        assert json.loads(json.dumps(result().to_json())) == golden()

    def test_reads_into_the_types_of_its_fields(self):
        read = result()
        assert read.stop_reason is StopReason.ENUMERATED
        assert read.objectives[0] == Objective(name="accuracy", maximize=True)
        assert read.front[0].policy == Policy(
            weights={"conv": 4}, activations={"conv": 8}
        )
        assert read.history[0] == Generation(
            generation=0,
            num_evaluated=7,
            num_reused=2,
            best_metric=0.5,
            hypervolume=1.0,
        )

    def test_is_frozen_hashable_and_survives_pickle_and_deepcopy(self):
        read = result()
        assert pickle.loads(pickle.dumps(read)) == read
        assert copy.deepcopy(read) == read
        assert hash(read) == hash(result())
        with pytest.raises(dataclasses.FrozenInstanceError):
            read.target = "other"
        with pytest.raises(TypeError):
            read.front[0].metrics["accuracy"] = 1.0
        with pytest.raises(TypeError):
            read.provenance.versions["matar_tf"] = "2"

    def test_only_an_interrupted_search_says_so(self):
        assert not result().interrupted
        assert dataclasses.replace(
            result(), stop_reason=StopReason.INTERRUPTED
        ).interrupted

    def test_two_candidates_of_one_name_are_refused(self):
        (one,) = result().front
        with pytest.raises(SearchError, match=r"distinct names in front.*policy_00"):
            dataclasses.replace(result(), front=(one, one))

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            (("schema_version",), 2, "schema_version 1, got 2"),
            (("schema_version",), True, "int under 'schema_version', got True"),
            (("target",), 5, "Expected str under 'target', got 5"),
            (("front",), {}, "Expected list under 'front'"),
            (("num_evaluated",), 1.5, "Expected int under 'num_evaluated', got 1.5"),
            (("num_reused",), True, "Expected int under 'num_reused', got True"),
            (("stop_reason",), "patients", "Did you mean 'patience'"),
            (("objectives", 0), "accuracy", "Expected a JSON object for a objective"),
            (("objectives", 0, "maximize"), 1, "Expected bool under 'maximize'"),
            (("objectives", 0, "name"), "", "Expected the name of a metric or cost"),
            (("front", 0, "metrics"), [], "Expected dict under 'metrics'"),
            (("front", 0, "metrics", "loss"), "1", "Expected a number for metric"),
            (("front", 0, "metrics", "loss"), None, "Expected a number for metric"),
            (("front", 0, "costs", "latency_ms"), True, "Expected a number for cost"),
            (("front", 0, "costs", "latency_ms"), 1e999, "Expected a finite number"),
            (("history", 0, "generation"), "0", "Expected int under 'generation'"),
            (("history", 0, "hypervolume"), None, "Expected a number for hypervolume"),
            (("provenance", "created"), "yesterday", "Expected an ISO time"),
            (("provenance", "num_samples"), -1, "num_samples of at least 0, got -1"),
            (("provenance", "seed"), None, "Expected int under 'seed'"),
        ],
    )
    def test_malformed_values_are_named(self, path, value, message):
        document = golden()
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(SearchError, match=message):
            SearchResult.from_json(document)

    @pytest.mark.parametrize(
        "path",
        [
            (),
            ("objectives", 0),
            ("front", 0),
            ("history", 0),
            ("provenance",),
        ],
    )
    def test_missing_and_unknown_keys_are_named(self, path):
        document = golden()
        place = document
        for key in path:
            place = place[key]
        key = next(reversed(place))
        place[key + "_"] = place.pop(key)
        with pytest.raises(SearchError, match=f"Unknown key '{key}_'.*mean '{key}'"):
            SearchResult.from_json(document)
        del place[key + "_"]
        with pytest.raises(SearchError, match=f"has no key '{key}'; add it"):
            SearchResult.from_json(document)

    def test_a_malformed_policy_is_a_policy_error(self):
        document = golden()
        document["front"][0]["policy"]["weights"]["conv"] = 9
        with pytest.raises(PolicyError, match=r"2\.\.8"):
            SearchResult.from_json(document)

    @pytest.mark.parametrize("value", [None, [], "{}"])
    def test_anything_but_an_object_is_refused(self, value):
        with pytest.raises(SearchError, match="Expected a JSON object"):
            SearchResult.from_json(value)


class TestCandidate:
    def test_value_is_the_metric_or_cost_of_an_objective(self):
        (one,) = result().front
        assert one.value(Objective(name="accuracy", maximize=True)) == 0.5
        assert one.value(Objective(name="latency_ms")) == 0.75

    def test_a_cost_without_a_figure_has_no_value(self):
        (one,) = result().front
        with pytest.raises(SearchError, match="no figure for 'energy_mj'"):
            one.value(Objective(name="energy_mj"))
        with pytest.raises(SearchError, match="Did you mean 'latency_ms'"):
            one.value(Objective(name="latency"))

    def test_numpy_numbers_become_floats(self):
        one = Candidate(
            name="x",
            policy=Policy(weights={}, activations={}),
            metrics={"accuracy": np.float32(0.5)},
            costs={"cycles": np.int64(3)},
        )
        assert json.dumps(one.to_json()["metrics"]) == '{"accuracy": 0.5}'
        assert type(one.costs["cycles"]) is float

    def test_a_nan_is_refused(self):
        with pytest.raises(SearchError, match="finite number for metric 'loss' of 'x'"):
            Candidate(
                name="x",
                policy=Policy(weights={}, activations={}),
                metrics={"loss": float("nan")},
                costs={},
            )


class TestObjective:
    def test_is_minimised_unless_told_otherwise(self):
        assert Objective(name="accuracy") == Objective(name="accuracy", maximize=False)

    @pytest.mark.parametrize(
        ("text", "name", "maximize"),
        [
            ("accuracy", "accuracy", True),
            ("top5_accuracy", "top5_accuracy", True),
            ("loss", "loss", False),
            ("latency_ms", "latency_ms", False),
            ("max:f1", "f1", True),
            ("min:accuracy", "accuracy", False),
        ],
    )
    def test_parse_knows_the_direction(self, text, name, maximize):
        assert Objective.parse(text) == Objective(name=name, maximize=maximize)

    def test_parse_refuses_other_prefixes(self):
        with pytest.raises(SearchError, match=r"'maxi:f1'\. Did you mean 'max'"):
            Objective.parse("maxi:f1")

    def test_smaller_is_better_after_to_minimized_and_the_way_back_is_exact(self):
        for maximize in (True, False):
            one = Objective(name="x", maximize=maximize)
            better, worse = (0.9, 0.1) if maximize else (0.1, 0.9)
            assert one.to_minimized(better) < one.to_minimized(worse)
            assert one.from_minimized(one.to_minimized(0.3)) == 0.3


class TestProvenance:
    def test_a_result_may_rest_on_no_samples(self):
        document = {**golden()["provenance"], "num_samples": 0}
        assert Provenance.from_json(document).num_samples == 0

    def test_accepts_a_time_in_utc_that_ends_in_z(self):
        document = golden()["provenance"]
        document["created"] = "2030-01-31T12:00:00Z"
        assert Provenance.from_json(document).created == "2030-01-31T12:00:00Z"
