"""Which policies of a front a verdict names, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fixtures.toy_search import provenance

from matar_tf.errors import SearchError
from matar_tf.policy import Policy
from matar_tf.reporting import to_json, to_markdown, to_text
from matar_tf.results import Candidate, Objective, SearchResult, StopReason
from matar_tf.verdict import BEST, CHEAPEST, KNEE, parse_want, verdict_of

ACCURACY = Objective(name="accuracy", maximize=True)
LATENCY = Objective(name="latency_ms")


def candidate(name: str, accuracy: float, latency: float) -> Candidate:
    return Candidate(
        name=name,
        policy=Policy(weights={"one": 2 + int(latency) % 7}, activations={name: 8}),
        metrics={"accuracy": accuracy},
        costs={"latency_ms": latency},
    )


def result(*front: Candidate, references: tuple[Candidate, ...] = ()) -> SearchResult:
    return SearchResult(
        target="toy",
        objectives=(ACCURACY, LATENCY),
        front=front,
        references=references,
        num_evaluated=9,
        num_reused=0,
        stop_reason=StopReason.PATIENCE,
        history=(),
        provenance=replace(provenance(), num_samples=1_000_000),
    )


FRONT = tuple(
    candidate(f"policy_{index:02d}", accuracy, latency)
    for index, (accuracy, latency) in enumerate(
        [(0.70, 1.0), (0.885, 2.0), (0.894, 3.0), (0.905, 5.0), (0.906, 9.0)]
    )
)
W8A8 = candidate("w8a8", 0.9, 10.0)
W2A2 = candidate("w2a2", 0.6, 0.5)


def named(found: SearchResult) -> dict[str, str]:
    return {pick.kind: pick.policy.name for pick in verdict_of(found)}


def test_three_policies_by_hand() -> None:
    found = result(*FRONT, references=(W2A2, W8A8))
    # 0.894 is 0.6 points below w8a8, 0.885 is 1.5. Shares of the ranges, cost and loss:
    # (0, 1), (1/8, .102), (2/8, .058), (4/8, .005), (1, 0): the second sum is least.
    assert named(found) == {BEST: "policy_04", CHEAPEST: "policy_02", KNEE: "policy_01"}
    pick = verdict_of(found)[1]
    assert pick.beside == "w8a8"
    assert pick.loss == pytest.approx(0.006)
    assert pick.chance == pytest.approx(1.0)
    assert pick.sentence == (
        "Fastest within 1 point of w8a8: policy_02, 0.60 points below, within it with "
        "a chance of 100%."
    )


@pytest.mark.parametrize(
    ("within", "name"),
    [(0.0, "policy_03"), (0.5, "policy_03"), (2.0, "policy_01"), (30.0, "policy_00")],
)
def test_what_may_be_lost_is_said(within: float, name: str) -> None:
    found = replace(result(*FRONT, references=(W8A8,)), within=within)
    assert named(found)[CHEAPEST] == name


def test_luck_asks_for_a_margin() -> None:
    """0.6 points below, on 1,000 samples: 1.36 points of deviation, 61.6 % likely.

    Two hits and two misses are added to each: 0.906 counts as 0.9044.
    """
    found = result(*FRONT, references=(W8A8,))
    few = replace(found, provenance=replace(found.provenance, num_samples=1000))
    pick = verdict_of(few)[1]
    # Of the others 0.905 is at 0.5 points above: 1.5 / 1.33 deviations, 87.0 %, and
    # 0.906 at 88.5 %, the likeliest: none is likely enough to stop at a cheaper one.
    assert pick.policy.name == "policy_04"
    assert pick.chance == pytest.approx(0.8854, abs=5e-4)
    assert "0.60 points above" in pick.sentence


def test_all_right_is_not_certain() -> None:
    """100 % of 2 samples each: (2 + 2) of 6, deviation sqrt(2 * 2 / 9 / 6)."""
    both = result(
        candidate("policy_00", 1.0, 1.0), references=(candidate("w8a8", 1.0, 4.0),)
    )
    few = replace(both, provenance=replace(both.provenance, num_samples=2))
    pick = verdict_of(few)[1]
    assert pick.chance == pytest.approx(0.5147, abs=1e-3)


@pytest.mark.parametrize(
    "turned", ["min:accuracy,latency_ms", "accuracy,max:latency_ms"]
)
def test_turned_objectives_have_no_verdict(turned: str) -> None:
    objectives = tuple(map(Objective.parse, turned.split(",")))
    assert verdict_of(replace(result(*FRONT), objectives=objectives)) == ()


def test_intervals_of_what_is_predicted_count() -> None:
    def wide(one: Candidate, half: float) -> Candidate:
        accuracy = one.metrics["accuracy"]
        bounds = {"accuracy_low": accuracy - half, "accuracy_high": accuracy + half}
        return replace(one, metrics={**one.metrics, **bounds})

    for half, name in ((1e-4, "policy_02"), (7e-3, "policy_03")):
        front = (wide(one, half) for one in FRONT)
        found = result(*front, references=(wide(W8A8, 1e-4),))
        assert named(found)[CHEAPEST] == name


def test_without_w8a8_the_widest_or_the_best_is_beside() -> None:
    w4a4 = candidate("w4a4", 0.88, 4.0)
    found = verdict_of(result(*FRONT, references=(W2A2, w4a4)))
    assert found[1].beside == "w4a4"
    assert "of w4a4 (the widest uniform one that there is" in found[1].sentence
    found = verdict_of(result(*FRONT))
    assert found[1].beside == "policy_04"
    assert "of policy_04 (the most accurate that there is" in found[1].sentence


def test_a_policy_that_costs_as_much_as_w8a8_is_told_so() -> None:
    fast = replace(W8A8, costs={"latency_ms": 3.0})
    sentence = verdict_of(result(*FRONT, references=(fast,)))[1].sentence
    assert sentence.endswith("; its latency is no better than that of w8a8.")
    slow = replace(W8A8, costs={"latency_ms": 3.1})
    assert "better" not in verdict_of(result(*FRONT, references=(slow,)))[1].sentence


def test_other_metrics_have_no_points() -> None:
    loss, cost = Objective(name="loss"), Objective(name="weight_bytes")
    front = tuple(
        replace(one, metrics={"loss": 1 - one.metrics["accuracy"]}, costs={**sizes})
        for one, sizes in zip(
            FRONT, ({"weight_bytes": x} for x in (1.0, 2.0, 3.0, 4.0, 5.0)), strict=True
        )
    )
    found = replace(result(*front), objectives=(loss, cost))
    assert [pick.kind for pick in verdict_of(found)] == [BEST, KNEE]
    assert verdict_of(found)[0].sentence == "Best loss: policy_04 (0.094)."


def test_fronts_of_one_and_none() -> None:
    assert verdict_of(result()) == ()
    only = result(FRONT[2], references=(W8A8,))
    assert named(only) == {BEST: "policy_02", CHEAPEST: "policy_02"}


def test_tables_say_it() -> None:
    found = result(*FRONT, references=(W8A8,))
    for text in (to_text(found), to_markdown(found).replace("\\", "")):
        flat = " ".join(text.split())
        assert "Most accurate: policy_04 (90.60 %)." in flat
        assert "Knee: policy_01, beyond which more cost buys less." in flat
    verdict = to_json(found)["verdict"]
    assert [one["policy"] for one in verdict] == ["policy_04", "policy_02", "policy_01"]


def test_within_is_kept() -> None:
    found = replace(result(*FRONT), within=0.5)
    assert SearchResult.from_json(found.to_json()).within == 0.5
    older = {key: one for key, one in found.to_json().items() if key != "within"}
    assert SearchResult.from_json(older).within == 1.0


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("most accurate", (BEST, None, None)),
        (" Knee ", (KNEE, None, None)),
        ("smallest within 0.5", (CHEAPEST, "weight_bytes", 0.5)),
        ("fastest  within 2 points", (CHEAPEST, "latency_ms", 2.0)),
        ("leanest within 1 point", (CHEAPEST, "energy_pj", 1.0)),
    ],
)
def test_wants(text: str, want: tuple[str, str | None, float | None]) -> None:
    assert parse_want(text) == want


@pytest.mark.parametrize(
    "text",
    ["", "best", "smallest", "smallest within", "smallest within -1", "x within 1"],
)
def test_other_wants_are_refused(text: str) -> None:
    with pytest.raises(SearchError, match="Expected what is wanted as 'most accurate'"):
        parse_want(text)
