"""What a network's answers say of samples and labels: mistakes, and what is none."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits

import matar_tf as mt
from matar_tf.artifact import Artifact
from matar_tf.data import Data
from matar_tf.errors import MatarWarning, OddDataError
from matar_tf.inputs import InputInfo
from matar_tf.tflite import odd_data
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.fitting_data import input_infos
from matar_tf.tflite.input_range import InputGrid
from matar_tf.tflite.odd_data import check_plausible

DATA = few_digits()
X, Y = DATA.x_test, DATA.y_test
RNG = np.random.default_rng(0)
HALF = np.clip(X / 2 + 0.25 + RNG.normal(0.0, 0.1, X.shape), 0, 1).astype(np.float32)
FEW = Y < 5


@pytest.fixture(scope="module")
def net() -> Artifact:
    artifact = digits_artifact()
    known = {"w8a8": mt.evaluate(file_of(artifact), DATA)}
    inputs = input_infos(artifact.template, X)
    return replace(artifact, accuracy=known, inputs=inputs)


def file_of(artifact: Artifact) -> bytes:
    return ModelBuilder(artifact).build(artifact.space.widest())


def data(samples: Any, labels: Any) -> Data:
    return Data(name="mine", x_test=np.asarray(samples, np.float32), y_test=labels)


@pytest.mark.parametrize(
    ("samples", "labels", "sentence"),
    [
        (
            X,
            RNG.permutation(Y),
            r"the labels of the samples, got those of others",
        ),
        (X, 9 - Y, "classes numbered as at training"),
        (X[FEW], RNG.permutation(Y[FEW]), r"by chance \(its developer measured 9"),
        (1 - X, Y, r"low and high values exchanged .* and on 9.* of 1 - x"),
        (X.swapaxes(1, 2), Y, r"rows as columns .* and on 9.* of x\.swapaxes\(1, 2\)"),
    ],
)
def test_refuses(net: Artifact, samples: Any, labels: Any, sentence: str) -> None:
    with pytest.raises(OddDataError, match=sentence) as error:
        check_plausible(net, data(samples, labels))
    assert "\n" not in str(error.value)
    with pytest.warns(MatarWarning, match=sentence):
        check_plausible(net, data(samples, labels), allow_odd_data=True)


@pytest.mark.parametrize(
    ("samples", "labels"),
    [
        *((X, Y), (HALF, Y), (X[FEW], Y[FEW]), (HALF[FEW], Y[FEW])),
        *((X / 2, Y), (X[Y == 3], Y[Y == 3])),
        (X[:15], 9 - Y[:15]),  # too few to tell
    ],
)
def test_takes_what_is_only_other(net: Artifact, samples: Any, labels: Any) -> None:
    check_plausible(net, data(samples, labels))


def test_answers_in_the_place_of_labels_tell_nothing(net: Artifact) -> None:
    others = replace(data(X, RNG.permutation(Y)), is_labelled=False)
    check_plausible(net, others)
    check_plausible(net, data(X, Y.astype(np.float32)))  # values, for other metrics


def test_takes_a_hundred_samples_whatever_the_luck(net: Artifact) -> None:
    for seed in range(20):
        some = np.random.default_rng(seed).permutation(len(Y))[:100]
        for samples in (X, HALF):
            check_plausible(net, data(samples[some], Y[some]))


def test_without_a_known_accuracy_only_mistakes_are_told(net: Artifact) -> None:
    unknown = replace(net, accuracy={})
    check_plausible(unknown, data(X, RNG.permutation(Y)))
    with pytest.raises(OddDataError, match="rows as columns"):
        check_plausible(unknown, data(X.swapaxes(1, 2), Y))


def test_the_accuracy_may_be_that_of_measurements(net: Artifact) -> None:
    unknown = replace(net, accuracy={}, inputs={})
    measured = mt.measure(unknown, DATA, num_policies=12, progress=False)
    assert measured.inputs == net.inputs
    with pytest.raises(OddDataError, match="those of others"):
        check_plausible(measured, data(X, RNG.permutation(Y)))


def test_a_search_ends_before_it_begins(net: Artifact) -> None:
    options: Any = {"max_evaluations": 4, "population_size": 4, "progress": False}
    shuffled = X, RNG.permutation(Y)
    with pytest.raises(OddDataError, match="those of others"):
        mt.search(net, "mpic", shuffled, **options)
    with pytest.raises(OddDataError, match="those of others"):
        mt.measure(net, shuffled)
    with pytest.warns(MatarWarning, match="those of others"):
        mt.search(net, "mpic", shuffled, allow_odd_data=True, **options)


class TestMistakes:
    """Each is undone, on samples that it was made with."""

    IMAGES = RNG.random((4, 5, 5, 3)).astype(np.float32)

    @pytest.mark.parametrize(
        ("make", "mend"),
        [
            (lambda x: x[..., ::-1], "x[..., ::-1]"),
            (
                lambda x: x.transpose(0, 3, 1, 2).reshape(x.shape),
                "x.reshape(-1, 3, 5, 5).transpose(0, 2, 3, 1)",
            ),
            (lambda x: x.swapaxes(1, 2), "x.swapaxes(1, 2)"),
            (lambda x: 255.0 * x, "x / 255"),
        ],
    )
    def test_is_undone_as_the_sentence_says(self, make: Any, mend: str) -> None:
        grid = InputGrid(step=1 / 255, low=0.0, high=1.0)
        wrong = make(self.IMAGES)
        found = {one.mend: one for one in odd_data._mistakes(wrong, grid, None)}
        np.testing.assert_allclose(found[mend].undo(wrong), self.IMAGES, rtol=1e-6)
        said = eval(mend, {"x": wrong})
        np.testing.assert_allclose(said, self.IMAGES, rtol=1e-6)

    @pytest.mark.parametrize(
        ("low", "high", "made", "mend"),
        [
            (-1.0, 1.0, lambda u: u, "2 * x - 1"),
            (-1.0, 1.0, lambda u: 255.0 * u, "x / 127.5 - 1"),
            (0.0, 255.0, lambda u: u, "255 * x"),
            (0.0, 1.0, lambda u: 2.0 * u - 1.0, "(x + 1) / 2"),
        ],
    )
    def test_scales(self, low: float, high: float, made: Any, mend: str) -> None:
        unit = RNG.random((50, 3))
        grid = InputGrid(step=(high - low) / 255, low=low, high=high)
        found = {one.mend: one for one in odd_data._mistakes(made(unit), grid, None)}
        undone = found[mend].undo(made(unit))
        np.testing.assert_allclose(undone, low + (high - low) * unit, atol=1e-9)


class TestRecovers:
    @pytest.mark.parametrize(("better", "is_so"), [(14, False), (15, True)])
    def test_by_more_than_chance(self, better: int, is_so: bool) -> None:
        # 2**-14 is above 5e-5, 2**-15 below; the gain is 14 or 15 of 100.
        right, again = np.zeros((2, 100), bool)
        again[:better] = True
        assert odd_data._recovers(right, again, 0.2, 5e-5) is is_so
        assert 2.0**-15 < 5e-5 < 2.0**-14

    @pytest.mark.parametrize(("expected", "is_so"), [(0.6, True), (0.62, False)])
    def test_half_of_what_is_missing(self, expected: float, is_so: bool) -> None:
        # 0.2 as given, 0.4 undone.
        right, again = np.arange(100) < 20, np.arange(100) < 40
        assert odd_data._recovers(right, again, expected, 1e-3) is is_so
        assert odd_data._recovers(right, again, None, 1e-3)


class TestChannels:
    """Reversed channels of samples without labels, by hand-made answers."""

    INFO = InputInfo(
        shape=(2, 2, 3),
        low=0.0,
        high=1.0,
        mean=(0.6, 0.5, 0.4),
        deviation=(0.2, 0.2, 0.2),
        num_samples=9,
    )

    def told(self, means: Any, entropies: tuple[float, float], noise: float) -> bool:
        draw = np.random.default_rng(0)
        colours = np.array(means) + draw.normal(0.0, noise, (50, 1, 1, 3))
        images = np.broadcast_to(colours, (50, 2, 2, 3))
        spread = draw.normal(0.0, 0.1, 50)
        given, undone = (
            odd_data._Answers(classes=np.zeros(50, int), entropy=one + spread * place)
            for place, one in enumerate(entropies)
        )
        mended = images[..., ::-1]
        return odd_data._is_told(given, undone, images, mended, self.INFO)

    def test_are_told_by_means_and_answers_together(self) -> None:
        reverse, right = (0.4, 0.5, 0.6), (0.6, 0.5, 0.4)
        assert self.told(reverse, (0.5, 0.3), 0.05)
        assert not self.told(right, (0.5, 0.3), 0.05)  # the means are as they should
        assert not self.told(reverse, (0.5, 0.49), 0.05)  # it is as sure
        assert not self.told(reverse, (0.5, 0.3), 2.0)  # means may be chance
        assert not self.told((0.5, 0.5, 0.8), (0.5, 0.3), 0.01)  # both are far


class TestLabels:
    def test_chance_is_that_of_pairs_of_samples(self) -> None:
        """Against the mean over permutations, drawn."""
        classes, labels = RNG.integers(0, 4, (2, 300))
        drawn = np.mean(
            [np.mean(classes == RNG.permutation(labels)) for _ in range(2000)]
        )
        counts = [np.bincount(one, minlength=4) for one in (classes, labels)]
        right = int((classes == labels).sum())
        chance = (counts[0] @ counts[1] - right) / (300 * 299)
        assert chance == pytest.approx(drawn, abs=0.003)
        assert odd_data._are_of_others(classes, labels, 0.9)

    def test_a_network_that_names_few_classes_finds_them_hard(self) -> None:
        labels = RNG.integers(0, 10, 400)
        assert odd_data._are_of_others(RNG.permutation(labels), labels, 0.9)
        few = np.where(RNG.random(400) < 0.7, 3, RNG.permutation(labels))
        assert not odd_data._are_of_others(few, labels, 0.9)

    def test_hardly_right_more_often_than_by_chance(self) -> None:
        labels = np.arange(1000) % 10
        for share, is_so in ((0.15, True), (0.35, False)):
            others = (labels + 1 + np.arange(1000) // 10 % 9) % 10
            is_right = np.arange(1000) // 10 < 100 * share
            classes = np.where(is_right, labels, others)
            assert odd_data._are_of_others(classes, labels, 0.9) is is_so

    def test_one_class_tells_nothing(self) -> None:
        labels = np.full(200, 3)
        classes = RNG.integers(0, 10, 200)
        assert not odd_data._are_of_others(classes, labels, 0.9)
        assert math.isclose(float(np.mean(classes == labels)), 0.1, abs_tol=0.07)
