"""Policies to start from that are in no table: each is named, with the reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.digits import digits_artifact
from fixtures.runs import run_all

from matar_tf.errors import ExportError, SearchError
from matar_tf.evolution import Limit, SearchOptions
from matar_tf.policy import Policy
from matar_tf.run.settings import settings_of

SPACE = digits_artifact().space
FEW = SearchOptions(max_evaluations=12, population_size=8)


def widened(number: int) -> Policy:
    """A policy of 2 bits whose first free weights have 8."""
    free = [name for name, widths in SPACE.weights.items() if len(widths) > 1]
    narrow = SPACE.named("w2a2")
    wide = dict.fromkeys(free[:number], 8)
    return replace(narrow, weights={**narrow.weights, **wide})


def uniform(weights: int, activations: int) -> Policy:
    return SPACE.named(f"w{weights}a{activations}")


class TestLeftOut:
    def test_what_is_in_the_table_needs_no_words(self, tmp_path: Path) -> None:
        starts = {"mine": widened(1), "other": widened(2)}
        outcome = run_all(tmp_path / "run", "mpic", starts=starts, options=FEW)
        (result,) = outcome.results
        assert {"mine", "other"} < {one.name for one in result.references}
        assert not outcome.left_out

    def test_of_equal_policies_the_first_name_stays(self, tmp_path: Path) -> None:
        starts = {name: widened(1) for name in ("a", "b", "c")}
        starts["wide"] = uniform(8, 8)
        starts["mixed"] = uniform(4, 8)  # no row of its own otherwise
        outcome = run_all(tmp_path / "run", "mpic", starts=starts, options=FEW)
        names = {one.name for one in outcome.results[0].references}
        assert {"a", "wide", "mixed"} < names
        assert not names & {"b", "c", "w8a8", "w4a8"}
        assert outcome.left_out == {
            "mpic": {
                "b": "It is the same policy as 'a'.",
                "c": "It is the same policy as 'a'.",
                "w8a8": "It is the same policy as 'wide'.",
            }
        }

    def test_what_breaks_a_limit(self, tmp_path: Path) -> None:
        """Between the figures of two policies."""
        name = "weight_bytes"
        starts = {"one": widened(1), "other": uniform(8, 2)}
        outcome = run_all(tmp_path / "free", "mpic", starts=starts, options=FEW)
        (result,) = outcome.results
        figures = {
            one.name: one.costs[name] for one in result.references if one.name in starts
        }
        (low, better), (high, worse) = sorted(
            (figure, start) for start, figure in figures.items()
        )
        bound = Limit(name=name, bound=(low + high) / 2)
        options = replace(FEW, limits=(bound,))
        outcome = run_all(tmp_path / "run", "mpic", starts=starts, options=options)
        (result,) = outcome.results
        names = {one.name for one in result.references}
        assert better in names
        assert worse not in names
        assert list(outcome.left_out["mpic"]) == [worse]
        text = f"{name} is {high:.10g}, more than the requested {bound.bound:.10g}."
        assert outcome.left_out["mpic"][worse] == text

    def test_what_breaks_a_limit_on_a_metric_is_there_to_compare(
        self, tmp_path: Path
    ) -> None:
        """What is expected of a metric is known of what was measured alone."""
        starts = {"narrow": uniform(2, 2)}
        options = replace(FEW, limits=(Limit(name="loss", bound=0.3),))
        outcome = run_all(tmp_path / "run", "mpic", starts=starts, options=options)
        (result,) = outcome.results
        assert max(one.metrics["expected_loss"] for one in result.front) <= 0.3
        found = {one.name: one.metrics["expected_loss"] for one in result.references}
        assert found["narrow"] > 0.3
        assert "narrow" not in outcome.left_out["mpic"]

    def test_what_one_target_does_not_take(self, tmp_path: Path) -> None:
        """The GPU multiplies 8 bits by 8, or 4 by 4."""
        starts = {"mine": uniform(4, 8)}
        outcome = run_all(tmp_path / "run", "t4", "mpic", starts=starts, options=FEW)
        assert list(outcome.left_out) == ["t4"]
        (reason,) = outcome.left_out["t4"].values()
        assert "bits among [(4, 4), (8, 8)], got (4, 8)" in reason
        searches = json.loads((tmp_path / "run/run.json").read_text())["searches"]
        assert searches["t4"]["left_out"] == {"mine": reason}
        assert searches["mpic"]["left_out"] == {}

    def test_widths_that_one_target_does_not_have(self, tmp_path: Path) -> None:
        """The others search from it; the same holds for widths that are fixed."""
        starts = {"mine": uniform(3, 5)}
        outcome = run_all(
            tmp_path / "run", "mpic", "bismo_ultra96", starts=starts, options=FEW
        )
        assert list(outcome.left_out) == ["mpic"]
        assert "3" in outcome.left_out["mpic"]["mine"]
        assert "mine" in {one.name for one in outcome["bismo_ultra96"].references}
        free = next(name for name, widths in SPACE.weights.items() if len(widths) > 1)
        outcome = run_all(
            *(tmp_path / "fixed", "bismo_ultra96"),
            starts=starts,
            options=FEW,
            fixed=(f"weights:{free}=8",),
        )
        reason = outcome.left_out["bismo_ultra96"]["mine"]
        assert (
            reason == f"Expected one of [8] bits for the weights entry {free!r}, got 3."
        )

    def test_what_the_search_did_not_come_to(self, tmp_path: Path) -> None:
        pairs = ((2, 4), (2, 8), (4, 2), (4, 8), (8, 2), (8, 4))
        starts = {f"start_{a}{b}": uniform(a, b) for a, b in pairs}
        few = SearchOptions(max_evaluations=4, population_size=4)
        outcome = run_all(tmp_path / "run", "mpic", starts=starts, options=few)
        reason = "The search ended before it was measured."
        assert outcome.left_out == {"mpic": {"start_82": reason, "start_84": reason}}


class TestSixteenBits:
    """Policies of 16-bit activations are measured if asked for, where there are any."""

    def test_are_beside_what_is_bred(self, tmp_path: Path) -> None:
        wide = uniform(8, 16)
        starts = {"w8a16": wide, "again": wide, "w4a16": uniform(4, 16)}
        outcomes = {
            name: run_all(tmp_path / name, name, starts=starts, options=FEW)
            for name in ("host_litert", "cortex_m4_cmsis_nn", "mpic")
        }
        (result,) = outcomes["host_litert"].results
        found = {one.name: one for one in result.references}
        assert found["w8a16"].policy == wide
        assert found["w4a16"].policy == uniform(4, 16)
        assert result.num_evaluated + result.num_reused <= FEW.max_evaluations + 2
        assert outcomes["host_litert"].left_out["host_litert"] == {
            "again": "It is the same policy as 'w8a16'."
        }
        bred = [one for one in result.front if one.policy.is_wide]
        assert {one.policy for one in bred} <= {wide, uniform(4, 16)}
        (result,) = outcomes["cortex_m4_cmsis_nn"].results
        assert "w8a16" in {one.name for one in result.references}
        reasons = outcomes["cortex_m4_cmsis_nn"].left_out["cortex_m4_cmsis_nn"]
        assert "expected one of [8] bits, got 4" in reasons["w4a16"]
        reasons = outcomes["mpic"].left_out["mpic"]
        assert all("got 16" in reasons[name] for name in starts)

    def test_are_named_as_they_are(self) -> None:
        settings = settings_of(SPACE, start=["w8a16", "w4a16"])
        assert dict(settings.starts) == {
            "w8a16": uniform(8, 16),
            "w4a16": uniform(4, 16),
        }
        with pytest.raises(SearchError, match="but for w8a16 and the like"):
            settings_of(SPACE, start=["w8a8"])
        with pytest.raises(ExportError, match="'int8' for 16-bit activations"):
            settings_of(SPACE, start=["w8a16"], profile="packed-litert")
