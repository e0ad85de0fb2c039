"""Measuring policies so that others can search without data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits, write_digits
from fixtures.paths import GOLDEN
from fixtures.programs import call, fails
from scipy.special import log_softmax

import matar_tf
from matar_tf.artifact import Artifact, read_artifact, write_artifact
from matar_tf.errors import ArtifactError, DataError
from matar_tf.evolution import EvaluationStore
from matar_tf.tflite import parts
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.evaluate import PolicyEvaluator
from matar_tf.tflite.parts import PartsEvaluator, divergence, part_name
from matar_tf.tflite.runtime import Runner

NUM_POLICIES = 30
ACCURACY = {
    "float": {"accuracy": 0.99, "loss": 0.1},
    "w8a8": {"accuracy": 0.97, "loss": 0.2},
    "w2a2": {"accuracy": 0.8, "loss": 0.6},
    "mixed": {"accuracy": 0.9},
    "w8a16": {"accuracy": 0.98},
}


@pytest.fixture(scope="module")
def measured() -> Artifact:
    return matar_tf.measure(
        digits_artifact(), few_digits(), num_policies=NUM_POLICIES, progress=False
    )


class TestDivergence:
    P = np.array([[0.5, 0.5], [0.9, 0.1]], np.float32)
    Q = np.array([[0.25, 0.75], [0.9, 0.1]], np.float32)
    # 0.5 log(0.5/0.25) + 0.5 log(0.5/0.75) = 0.143841, and nothing of the second row.
    BY_HAND = 0.143841 / 2

    @pytest.mark.parametrize("shift", [0.0, 3.0])
    def test_of_classes_by_hand(self, shift: float) -> None:
        for one, other, probabilities in (
            (self.Q, self.P, True),
            (np.log(self.Q) + shift, np.log(self.P) - shift, False),
        ):
            found = divergence(one, other, of_classes=True, probabilities=probabilities)
            assert found == pytest.approx(self.BY_HAND, abs=1e-5)
            same = divergence(
                other, other, of_classes=True, probabilities=probabilities
            )
            assert same == 0.0

    def test_of_one_output_for_two_classes(self) -> None:
        p, q = self.P[:, 1:], self.Q[:, 1:]
        found = divergence(q, p, of_classes=True, probabilities=True)
        assert found == pytest.approx(self.BY_HAND, abs=1e-5)
        odds = [np.log(one / (1 - one)) for one in (q, p)]
        found = divergence(*odds, of_classes=True, probabilities=False)
        assert found == pytest.approx(self.BY_HAND, abs=1e-5)

    def test_of_values_by_hand(self) -> None:
        one, other = np.array([[1.0], [5.0]]), np.array([[2.0], [3.0]])
        found = divergence(one, other, of_classes=False, probabilities=False)
        assert found == (1 + 4) / 2

    def test_probabilities_of_zero(self) -> None:
        one = np.array([[0.0, 1.0]], np.float32)
        found = divergence(one, one[:, ::-1], of_classes=True, probabilities=True)
        assert found == pytest.approx(np.log(1e7), rel=1e-3)


def test_halves_are_every_other_sample() -> None:
    artifact, data = digits_artifact(), few_digits()
    policy = artifact.space.named("w2a2")
    found = PartsEvaluator(artifact, data.x_test, data.y_test)(policy)
    builder = ModelBuilder(artifact)
    outputs, widest = (
        log_softmax(Runner(builder.build(one)).predict(data.x_test), axis=-1)
        for one in (policy, artifact.space.widest())
    )
    for half in (0, 1):
        part = slice(half, None, 2)
        alone = PolicyEvaluator(artifact, data.x_test[part], data.y_test[part])(policy)
        for name in ("accuracy", "loss"):
            assert found[part_name(name, half)] == pytest.approx(alone[name])
        terms = np.exp(widest[part]) * (widest[part] - outputs[part])
        assert found[part_name("divergence", half)] == pytest.approx(
            terms.sum(axis=-1).mean(), rel=1e-4
        )


def test_measures_what_an_evaluation_does(measured: Artifact) -> None:
    found = measured.measurements
    assert found is not None
    assert not found.trained_on
    assert found.levels is None
    assert found.num_samples == 200
    assert len(set(found.policies)) == len(found.policies) == NUM_POLICIES
    assert measured.space.widest() in found.policies
    assert set(found.metrics) == {"accuracy", "loss", "divergence"}
    data = few_digits()
    policy = found.policies[7]
    alone = PolicyEvaluator(measured, data.x_test, data.y_test)(policy)
    for name in ("accuracy", "loss"):
        assert found.metrics[name][:, 7].mean() == pytest.approx(alone[name], rel=1e-5)
    assert set(found.cross_validation) == {
        *("spearman", "spearman_best_fifth", "spearman_halves", "coverage"),
        *("mean_absolute_error", "largest_absolute_error"),
    }


def test_seeds_choose_other_policies(measured: Artifact) -> None:
    again, other = (
        matar_tf.measure(
            digits_artifact(),
            few_digits(),
            num_policies=NUM_POLICIES,
            num_samples=10,
            seed=seed,
            progress=False,
        ).measurements
        for seed in (0, 1)
    )
    assert again is not None
    assert other is not None
    assert measured.measurements is not None
    assert again.policies == measured.measurements.policies
    assert again.policies != other.policies
    assert again.num_samples == 10


def test_what_was_interrupted_is_gone_on_with(
    tmp_path: Path, measured: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    class Counting(PartsEvaluator):
        def __call__(self, policy: matar_tf.Policy) -> dict[str, float]:
            if len(calls) == 10:
                raise KeyboardInterrupt
            calls.append(policy)
            return super().__call__(policy)

    monkeypatch.setattr(parts, "PartsEvaluator", Counting)
    arguments = {"num_policies": NUM_POLICIES, "progress": False}
    store = tmp_path / "store.sqlite"
    with pytest.raises(KeyboardInterrupt):
        matar_tf.measure(digits_artifact(), few_digits(), store=store, **arguments)
    with EvaluationStore(store) as kept:
        assert len(kept) == 10
    monkeypatch.setattr(parts, "PartsEvaluator", PartsEvaluator)
    found = matar_tf.measure(digits_artifact(), few_digits(), store=store, **arguments)
    with EvaluationStore(store) as kept:
        assert len(kept) == NUM_POLICIES
    assert found.members() == measured.members()
    # All is known: nothing is measured at all.
    monkeypatch.setattr(parts, "PartsEvaluator", None)
    found = matar_tf.measure(digits_artifact(), few_digits(), store=store, **arguments)
    assert found.members() == measured.members()


class TestTrainedOn:
    def test_levels_are_those_of_the_accuracy_table(self) -> None:
        artifact = replace(
            digits_artifact(), accuracy=ACCURACY, provenance={"num_samples": 77}
        )
        found = matar_tf.measure(
            artifact, few_digits(), num_policies=12, trained_on=True, progress=False
        ).measurements
        assert found is not None
        assert found.num_samples == 600  # those to train on
        assert found.trained_on
        levels = found.levels
        assert levels is not None
        named = tuple(map(artifact.space.named, ("w8a8", "w2a2")))
        assert levels.policies == named
        assert set(named) <= set(found.policies)
        assert levels.metrics["accuracy"].tolist() == [0.97, 0.8]
        assert levels.metrics["loss"].tolist() == [0.2, 0.6]
        assert levels.num_samples == 77

    @pytest.mark.parametrize("kept", [(), ("float", "w8a8"), ("float", "mixed")])
    def test_without_levels_it_is_refused(self, kept: tuple[str, ...]) -> None:
        table = {name: ACCURACY[name] for name in kept}
        artifact = replace(digits_artifact(), accuracy=table)
        with pytest.raises(ArtifactError, match="two or more uniform policies"):
            matar_tf.measure(artifact, few_digits(), trained_on=True, progress=False)

    def test_needs_training_samples(self) -> None:
        artifact = replace(digits_artifact(), accuracy=ACCURACY)
        data = replace(few_digits(), x_train=None, y_train=None)
        with pytest.raises(DataError, match="Expected training data"):
            matar_tf.measure(artifact, data, trained_on=True, progress=False)


class TestRefusals:
    @pytest.mark.parametrize("number", [11, 2049])
    def test_numbers(self, number: int) -> None:
        with pytest.raises(ArtifactError, match="Expected 12 to 2048 policies"):
            matar_tf.measure(
                digits_artifact(), few_digits(), num_policies=number, progress=False
            )

    def test_a_space_of_few_policies(self) -> None:
        artifact = digits_artifact()
        only = replace(artifact, space=artifact.space.only(artifact.space.widest()))
        with pytest.raises(ArtifactError, match="space of at least 12 policies, got 1"):
            matar_tf.measure(only, few_digits(), progress=False)

    def test_a_single_sample(self) -> None:
        with pytest.raises(DataError, match="at least 2 samples"):
            matar_tf.measure(digits_artifact(), few_digits().head(1), progress=False)

    def test_figures_that_nothing_covers(self) -> None:
        with pytest.raises(ArtifactError, match="covered by its digest"):
            matar_tf.measure(GOLDEN / "net", few_digits(), progress=False)


class TestCommand:
    def test_writes_the_artifact_with_measurements(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], measured: Artifact
    ) -> None:
        write_digits(tmp_path)
        arguments = {
            "data": str(tmp_path / "data.npz"),
            "output": str(tmp_path / "new.matar"),
            "num_policies": NUM_POLICIES,
        }
        assert call("measure", str(tmp_path / "net.matar"), **arguments) == 0
        found = read_artifact(tmp_path / "new.matar")
        assert found.members() == measured.members()
        assert found.digest() == read_artifact(tmp_path / "net.matar").digest()
        out = capsys.readouterr().out
        assert "30 policies measured on 200 held-out samples" in out
        assert "rank correlation" in out
        line = fails(capsys, "measure", str(tmp_path / "net.matar"), **arguments)
        assert "exists" in line
        write_artifact(digits_artifact(), tmp_path / "new.matar", overwrite=True)

    @pytest.mark.parametrize("flag", [{"measure": 100}, {"channels": "RGB"}])
    def test_package_needs_data_to_speak_of(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        flag: dict[str, object],
    ) -> None:
        (tmp_path / "m.h5").touch()
        values = {"output": str(tmp_path / "net"), **flag}
        line = fails(capsys, "package", str(tmp_path / "m.h5"), **values)
        assert f"Expected --data beside --{next(iter(flag))}, got none" in line
