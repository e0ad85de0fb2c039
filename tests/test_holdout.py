"""Searching on one part of the samples and reporting on the other."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits
from fixtures.programs import flags_of

from matar_tf.data import Data
from matar_tf.errors import DataError
from matar_tf.evolution import SearchOptions
from matar_tf.run.holdout import split_data
from matar_tf.run.plan import make_run
from matar_tf.run.retarget import retarget
from matar_tf.run.settings import RunSettings
from matar_tf.targets import load_target
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner

DATA = few_digits().head(100)


def rows_of(data) -> set[bytes]:
    return {row.tobytes() for row in data.x_test}


class TestSplit:
    def test_parts_are_disjoint_complete_and_alike_in_classes(self):
        search, report = split_data(DATA, 0.3, 0)
        assert (len(search.x_test), len(report.x_test)) == (70, 30)
        assert not rows_of(search) & rows_of(report)
        assert rows_of(search) | rows_of(report) == rows_of(DATA)
        counts = np.bincount(DATA.y_test, minlength=10)
        held_out = np.bincount(report.y_test, minlength=10)
        assert np.abs(held_out - 0.3 * counts).max() <= 1.0
        for part in (search, report):
            known = dict(zip(map(bytes, DATA.x_test), DATA.y_test, strict=True))
            labels = [known[bytes(row)] for row in part.x_test]
            np.testing.assert_array_equal(labels, part.y_test)

    def test_follows_the_seed_and_the_digests_differ(self):
        first = [one.digest() for one in split_data(DATA, 0.5, 0)]
        assert first == [one.digest() for one in split_data(DATA, 0.5, 0)]
        assert first != [one.digest() for one in split_data(DATA, 0.5, 1)]
        assert len({*first, DATA.digest()}) == 3

    def test_takes_any_seed(self):
        for seed, same in ((2**32, 0), (2**32 + 1, 1), (-1, 2**32 - 1)):
            parts = zip(
                split_data(DATA, 0.5, seed), split_data(DATA, 0.5, same), strict=True
            )
            assert all(one.digest() == other.digest() for one, other in parts)

    @pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
    def test_refuses_shares_out_of_range(self, share):
        with pytest.raises(DataError, match="between 0 and 1"):
            split_data(DATA, share, 0)

    def test_refuses_classes_of_one_sample(self):
        few = replace(DATA, x_test=DATA.x_test[:10], y_test=np.arange(10))
        with pytest.raises(DataError, match="Use more samples, or no holdout"):
            split_data(few, 0.5, 0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        # One sample each of a class that the network has not.
        (lambda x, y: (x, np.r_[y[:-1], 10]), r"labels in 0\.\.9"),
        (lambda x, y: (255.0 * x, np.r_[9, np.zeros(99, int)]), "input grid"),
        (lambda x, y: (x[..., 0], np.arange(len(y))), "samples of shape"),
        (lambda x, y: (x, np.arange(len(y)) % 10), None),
    ],
)
def test_what_does_not_fit_the_network_is_said_before_the_split(change, sentence):
    x, y = change(DATA.x_test, DATA.y_test)
    settings = RunSettings(options=SearchOptions(), holdout=0.5)
    data, target = Data(x_test=x, y_test=y), load_target("mpic")
    if sentence is None:
        made = make_run(digits_artifact(), [target], data, settings)
        assert len(made.searched.y_test) == len(made.reported.y_test) == 50
        return
    with pytest.raises(DataError, match=sentence):
        make_run(digits_artifact(), [target], data, settings)


def test_the_program_takes_as_few_evaluations_as_the_library():
    flag = flags_of("search")["max_evaluations"]
    options = partial(replace, SearchOptions())
    for parse in (flag.parser.parse, lambda value: options(max_evaluations=value)):
        parse(1)
        with pytest.raises(ValueError, match=r"at least 1|positive"):
            parse(0)


def test_a_run_reports_on_what_the_search_did_not_see(tmp_path: Path):
    settings = RunSettings(
        options=SearchOptions(max_evaluations=12, population_size=8, seed=3),
        holdout=0.4,
        progress=False,
    )
    artifact = digits_artifact()
    target = load_target("bismo_ultra96")
    (result,) = retarget(make_run(artifact, [target], DATA, settings), tmp_path).results
    search, report = split_data(DATA, 0.4, 3)
    assert result.provenance.num_samples == len(report.x_test) == 40
    builder = ModelBuilder(artifact)
    for one in (*result.front, *result.references):
        runner = Runner(builder.build(one.policy))
        for name, part in (("accuracy", report), ("search_accuracy", search)):
            right = runner.predict(part.x_test).argmax(1) == part.y_test
            assert one.metrics[name] == pytest.approx(right.mean())
    table = (tmp_path / "bismo_ultra96/front.md").read_text()
    assert "searched" in table
    assert "on 40 samples" in table
