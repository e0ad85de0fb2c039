"""The record of a run: what is written is read, and nothing else."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from fixtures.paths import ROOT

from matar_tf.errors import SearchError
from matar_tf.run.record import RunRecord

GOLDEN = json.loads((ROOT / "tests/golden/run/run.json").read_text())
RECORD = RunRecord.from_json(GOLDEN)


def test_what_0_1_0_wrote_is_read_and_written_alike() -> None:
    written = RECORD.to_json()
    assert written.pop("float_verified") is False  # which it did not know of
    assert written.pop("runtime") == "litert"  # nor of another
    assert written.pop("network") == ""  # whose name it did not write
    assert written == GOLDEN
    assert list(written) == list(GOLDEN)
    assert RunRecord.from_json(json.loads(json.dumps(RECORD.to_json()))) == RECORD


@pytest.mark.parametrize("name", [field.name for field in fields(RunRecord)])
def test_a_key_of_another_kind_is_named(name: str) -> None:
    wrong: Any = ("of", "another", "kind")
    with pytest.raises(SearchError, match=f"^{name} is no "):
        RunRecord.from_json({**GOLDEN, name: wrong})
    if type(getattr(RECORD, name)) is int:
        with pytest.raises(SearchError, match=f"^{name} is no "):
            RunRecord.from_json({**GOLDEN, name: True})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("failures", {"mpic": 1}, "failures holds no text, but 1"),
        ("targets", {"mpic": None}, "targets holds no text, but None"),
        ("searches", {"mpic": "x"}, "searches holds no object, but 'x'"),
        ("metrics", [["accuracy"]], "metrics holds no text"),
        ("objectives", ["accuracy"], "objectives holds no object"),
        *(
            ("targets", {name: "a"}, "no names of folders")
            for name in ("..", ".", "", "/", "a/b", "../a")
        ),
    ],
)
def test_what_lists_and_objects_hold(key: str, value: Any, words: str) -> None:
    with pytest.raises(SearchError, match=words):
        RunRecord.from_json({**GOLDEN, key: value})


@pytest.mark.parametrize(
    ("value", "fits"), [(0.0, True), (1.0, True), (-5.0, False), (99.0, False)]
)
def test_accuracies_are_shares(value: float, fits: bool) -> None:
    document = {**GOLDEN, "float_metrics": {"accuracy": value}}
    if fits:
        assert RunRecord.from_json(document).float_metrics == {"accuracy": value}
        return
    with pytest.raises(SearchError, match=f"float_metrics has {value} for 'accuracy'"):
        RunRecord.from_json(document)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_a_key_that_is_missing_is_named_unless_older_records_lack_it(name: str) -> None:
    document = {key: value for key, value in GOLDEN.items() if key != name}
    if name in ("planned_evaluations", "searches", "failures"):
        found = RunRecord.from_json(document)
        assert found.planned_evaluations == GOLDEN["max_evaluations"]
        return
    with pytest.raises(SearchError, match=f"no key '{name}'"):
        RunRecord.from_json(document)


def test_unknown_keys_and_versions_are_refused() -> None:
    with pytest.raises(SearchError, match="Unknown key 'colour'"):
        RunRecord.from_json({**GOLDEN, "colour": "red"})
    with pytest.raises(SearchError, match="schema_version is 2"):
        RunRecord.from_json({**GOLDEN, "schema_version": 2})
    with pytest.raises(SearchError, match="int under 'schema_version', got True"):
        RunRecord.from_json({**GOLDEN, "schema_version": True})
    for name in ("../else", "", "a/b"):
        with pytest.raises(SearchError, match="no names of folders"):
            RunRecord.from_json({**GOLDEN, "targets": {name: "digest"}})
    for number in (0, -1):
        with pytest.raises(SearchError, match="max_evaluations is no number above 0"):
            RunRecord.from_json({**GOLDEN, "max_evaluations": number})


# What may be otherwise when a run goes on, and what may not.
FREE = {
    *("command", "created", "max_minutes", "patience", "profile", "store", "versions"),
    *("float_metrics", "float_verified", "data", "planned_evaluations", "searches"),
    *("failures", "network"),
}


@pytest.mark.parametrize("name", [field.name for field in fields(RunRecord)])
def test_another_choice_is_another_run_or_is_free(name: str) -> None:
    value = getattr(RECORD, name)
    more: Any = {} if name in ("objectives", "starts", "searches") else "more"
    other: Any = {
        bool: lambda: not value,
        int: lambda: value + 1,
        float: lambda: value / 2 + 0.1,
        str: lambda: "packed-litert" if name == "profile" else f"{value}?",
        list: lambda: [*value, *value, more],
        dict: lambda: {**value, "more": more},
        type(None): lambda: {"store": "mine"}.get(name, 1),
    }[type(value)]()
    if name == "float_metrics":
        other = None
    changed = replace(RECORD, **{name: other})
    found = changed.difference(RECORD)
    if name in FREE or name == "max_evaluations":
        assert found is None
    else:
        assert found is not None
        assert f"the same {name}," in found
    if name == "max_evaluations":
        found = RECORD.difference(changed)
        assert found is not None
        assert "would be lost" in found


def test_a_run_goes_on_with_the_plan_of_the_one_that_began_small() -> None:
    population = RECORD.population_size
    for began, raised, planned in (
        (population - 1, population + 9, population - 1),
        (population, population + 9, population + 9),
    ):
        earlier = replace(RECORD, planned_evaluations=began, failures={"t4": "luck"})
        later = replace(RECORD, max_evaluations=raised, planned_evaluations=raised)
        found = later.resumed_from(earlier)
        assert found.planned_evaluations == planned
        assert found.failures == {"t4": "luck"}
