"""Samples of another range than a network's input: through every door, one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits, write_digits
from fixtures.programs import call, fails
from fixtures.samples import net_artifact

import matar_tf as mt
from matar_tf.commands._command import Command
from matar_tf.commands._program import call as program
from matar_tf.data import Data
from matar_tf.errors import DataError, MatarWarning, OddDataError
from matar_tf.run.plan import make_run
from matar_tf.run.settings import settings_of
from matar_tf.targets import load_target
from matar_tf.tflite._schema import parse_model, write_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.evaluate import PolicyEvaluator
from matar_tf.tflite.fitting_data import check_data
from matar_tf.tflite.input_range import (
    InputGrid,
    grids_of_artifact,
    grids_of_file,
    range_note,
)

DATA = few_digits().head(60)
BYTES = InputGrid(step=1.0, low=0.0, high=255.0)
OPTIONS: Any = {"max_evaluations": 4, "population_size": 4, "progress": False}


def content() -> bytes:
    artifact = digits_artifact()
    return ModelBuilder(artifact).build(artifact.space.named("w8a8"))


def samples(values: Any) -> Data:
    """One value per sample."""
    column = np.asarray(values, np.float32)[:, None]
    return Data(name="mine", x_test=column, y_test=np.arange(len(column)) % 2)


class TestGrid:
    # Unsigned: 255 steps of 1/255. Signed: -128 to 127 of the step that is stored.
    @pytest.mark.parametrize("name", ["digits_net", "six_convs"])
    def test_the_artifact_and_its_file_tell_the_same(self, name: str) -> None:
        artifact = digits_artifact() if name == "digits_net" else net_artifact(name)
        (grid,) = grids_of_artifact(artifact).values()
        file = ModelBuilder(artifact).build(artifact.space.widest())
        assert grid is not None
        assert [grid] == list(grids_of_file(file).values())
        low, high = (0.0, 1.0) if name == "digits_net" else (-3.748107, 3.718825)
        assert (grid.low, grid.high) == (pytest.approx(low), pytest.approx(high))
        assert grid.step == pytest.approx((high - low) / 255)

    @pytest.mark.parametrize(("num_scales", "num_zeros"), [(2, 1), (1, 2), (2, 2)])
    def test_a_grid_for_each_channel_is_none(self, num_scales: int, num_zeros: int):
        model = parse_model(content())
        graph = model.subgraphs[0]
        # The input stays float; the first operator quantizes it.
        grid = graph.tensors[graph.operators[0].outputs[0]].quantization
        grid.scale = np.full(num_scales, 0.5, np.float32)
        grid.zeroPoint = np.zeros(num_zeros, np.int64)
        assert list(grids_of_file(write_model(model)).values()) == [None]


class TestNote:
    def test_refuses_a_quarter_outside(self) -> None:
        values = np.linspace(0.0, 255.0, 1000)
        values[:249] = 300.0
        note = range_note(samples(values), BYTES)
        assert note is not None
        assert note.startswith("24.9% of the values of 'mine'")
        values[249] = 300.0
        with pytest.raises(DataError, match=r"input grid, 0\.\.255, got .* 25\.0% of"):
            range_note(samples(values), BYTES)

    def test_speaks_of_a_hundredth_outside(self) -> None:
        values = np.linspace(0.0, 255.0, 1000)
        values[:9] = -300.0
        assert range_note(samples(values), BYTES) is None
        values[9] = -300.0
        assert "1.0% of the values" in str(range_note(samples(values), BYTES))

    def test_one_and_a_half_steps_are_not_outside(self) -> None:
        values = np.linspace(-1.5, 256.5, 100)
        values[:50] = -1.5
        assert range_note(samples(values), BYTES) is None
        values[:50] = -1.51
        with pytest.raises(DataError, match=r"50\.0%"):
            range_note(samples(values), BYTES)

    def test_a_signed_grid_of_samples_up_to_one_ends_below_it(self) -> None:
        # As calibration sets it: -1 to 127 / 128, one level below the samples' end.
        signed = InputGrid(step=1 / 128, low=-1.0, high=127 / 128)
        assert range_note(samples(np.linspace(0.0, 1.0, 17).repeat(4)), signed) is None

    def test_speaks_of_samples_in_a_corner_of_the_grid(self) -> None:
        # 255 / 16 is 15.9375.
        assert range_note(samples(np.linspace(3.0, 18.9375, 64)), BYTES) is None
        note = range_note(samples(np.linspace(3.0, 18.9, 64)), BYTES)
        assert "use 6.2% of the range" in str(note)
        assert "use 0.8% of the range" in str(range_note(samples([0, 2]), BYTES))

    @pytest.mark.parametrize(
        ("high", "is_refused"),
        [(0.49, False), (0.51, True), (1.0, True), (1.005, True), (1.01, False)],
    )
    def test_refuses_what_255_times_as_large_would_fill_the_grid(
        self, high: float, is_refused: bool
    ) -> None:
        # At least half of it, and no more than 1.5 steps beyond: 256.5 / 255.
        given = samples(np.linspace(0.0, high, 50))
        if not is_refused:
            assert "of the range" in str(range_note(given, BYTES))
            return
        with pytest.raises(OddDataError, match="divided by 255 once too often"):
            range_note(given, BYTES)
        assert range_note(samples(255.0 * given.x_test[:, 0]), BYTES) is None

    @pytest.mark.parametrize("num_far", [50, 51])
    def test_refuses_what_lies_far_outside(self, num_far: int) -> None:
        # Of 1,000 values that are not 0, of 10,000. 510 is one range beyond 255.
        values = np.zeros(10_000)
        values[:1000] = np.linspace(1.0, 255.0, 1000)
        values[:num_far] = 510.5
        if num_far == 50:
            assert range_note(samples(values), BYTES) is None
            return
        with pytest.raises(DataError, match=r"got 0\.\.510\.5 in 'mine', 0\.5% of"):
            range_note(samples(values), BYTES)
        values[:num_far] = 509.5
        assert range_note(samples(values), BYTES) is None
        values[:num_far] = -255.5
        with pytest.raises(DataError, match=r"got -255\.5\.\.255 in"):
            range_note(samples(values), BYTES)

    @pytest.mark.parametrize("scale", [16.0, 255.0])
    @pytest.mark.parametrize("share", [0.005, 0.05, 0.2, 1.0])
    def test_refuses_another_scale_however_few_values_are_not_zero(
        self, scale: float, share: float
    ) -> None:
        unit = InputGrid(step=1 / 255, low=0.0, high=1.0)
        draw = np.random.default_rng(0)
        values = draw.integers(1, 17, 8000) / 16 * (draw.random(8000) < share)
        assert range_note(samples(values), unit) is None
        with pytest.raises(DataError, match=r"grid, 0\.\.1, got \d"):
            range_note(samples(scale * values), unit)

    def test_takes_what_is_ordinary(self) -> None:
        draw = np.random.default_rng(0)
        normal = draw.normal(size=20_000)
        wide = InputGrid(step=8 / 255, low=-4.0, high=4.0)
        assert range_note(samples(normal), wide) is None
        # A few outliers, however far; values of long tails.
        assert range_note(samples(np.r_[normal, np.full(100, 1e4)]), wide) is None
        assert range_note(samples(np.exp(normal)), BYTES) is None
        assert "outside" in str(range_note(samples(np.exp(normal)), wide))
        # Quiet, not refused.
        assert "use 3." in str(range_note(samples(0.03 * normal), wide))

    @pytest.mark.parametrize(
        ("most", "high", "is_refused"),
        [
            *((16, 1.0, True), (1, 1.0, True), (31, 1.0, True), (32, 1.0, False)),
            *((16, 16 / 255, False), (255, 1.0, False), (255, 255.0, True)),
            (255, 4.0, False),
        ],
    )
    def test_refuses_bytes_of_another_range(
        self, most: int, high: float, is_refused: bool
    ) -> None:
        grid = InputGrid(step=high / 255, low=0.0, high=high)
        values = np.uint8(np.arange(300) % (most + 1))[:, None]
        labels = np.arange(300) % 2
        with pytest.warns(MatarWarning, match="divided by 255"):
            given = Data(name="mine", x_test=values, y_test=labels)
        if not is_refused:
            assert range_note(given, grid) is None
            return
        with pytest.raises(DataError, match=rf"bytes of 0\.\.{most} in 'mine', which"):
            range_note(given, grid)

    def test_floats_in_a_corner_are_no_bytes(self) -> None:
        unit = InputGrid(step=1 / 255, low=0.0, high=1.0)
        quiet = np.linspace(0.0, 16 / 255, 100)
        assert range_note(samples(0.9 * quiet), unit) is not None
        counts = np.arange(100) % 3
        assert "use 0.8%" in str(range_note(samples(counts), BYTES))

    def test_speaks_of_equal_samples(self) -> None:
        for grid in (BYTES, None):
            note = range_note(samples(np.full(5, 9.0)), grid)
            assert note == "All 5 samples of 'mine' are equal; check them."

    def test_a_float_input_takes_any_range(self) -> None:
        assert range_note(samples([-1e6, 1e6]), None) is None


def doors(tmp_path: Path) -> dict[str, Callable[[Any, Any], object]]:
    artifact, file = digits_artifact(), content()
    settings = settings_of(artifact.space, holdout=0.5, **OPTIONS)
    target = load_target("mpic")
    return {
        "search": lambda x, y: mt.search(artifact, "mpic", (x, y), **OPTIONS),
        "retarget": lambda x, y: mt.retarget(
            artifact, ["mpic"], (x, y), tmp_path / "run", **OPTIONS
        ),
        "holdout": lambda x, y: make_run(
            artifact, [target], Data(x_test=x, y_test=y), settings
        ),
        "evaluate": lambda x, y: mt.evaluate(file, (x, y)),
        "export": lambda x, y: mt.export(
            artifact, "w8a8", tmp_path / "a.tflite", data=(x, y)
        ),
        "evaluator": lambda x, y: PolicyEvaluator(artifact, x, y),
        "mapping": lambda x, y: mt.evaluate(file, {"x_test": x, "y_test": y}),
    }


DOORS = tuple(doors(Path()))


@pytest.mark.parametrize("door", DOORS)
class TestDoors:
    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda x, y: (255.0 * x, y), r"range of this network's input grid, 0\.\."),
            (lambda x, y: (2.0 * x - 1.0, y), "input grid"),
            (lambda x, y: (np.uint8(16.0 * x), y), r"unsigned bytes of 0\.\.16 in"),
            (lambda x, y: (255.0 * x * (x > 0.9), y), r"got 0\.\.255 in"),
            (lambda x, y: (x / 255.0, y), "multiply them by that, or pass allow_odd"),
            (
                lambda x, y: (x.transpose(0, 3, 1, 2), y),
                r"give x\.transpose\(0, 2, 3, 1\), with the axis of channels last",
            ),
            (lambda x, y: (x, np.eye(10)[y]), "one-hot"),
            (lambda x, y: (x, y.astype(np.float32)), r"y\.astype\(int\)"),
            (lambda x, y: (x, y[:1]), "60 labels"),
            (lambda x, y: (x, y - 1), r"labels in 0\.\.9"),
            (lambda x, y: (x, y + 5), r"labels in 0\.\.9"),
            (lambda x, y: (np.where(x > 0.9, np.nan, x), y), "NaN"),
            (lambda x, y: (np.where(x > 0.9, np.inf, x), y), "infinity"),
            (lambda x, y: (x.astype(object), y), "floats or unsigned bytes"),
            (lambda x, y: (x[:, :4], y), "samples of shape .*prepare them as at"),
            (lambda x, y: (x[..., 0], y), r"give x\[\.\.\., None\], with an axis"),
            (
                lambda x, y: (x.reshape(-1, 64), y),
                r"give x\.reshape\(\(-1, 8, 8, 1\)\) if",
            ),
            (lambda x, y: (np.ma.masked_greater(x, 0.9), y), "without a mask"),
            (lambda x, y: (x, np.ma.masked_greater(y, 8)), "without a mask"),
        ],
    )
    def test_refuses_in_one_sentence(
        self, tmp_path: Path, door: str, change: Any, sentence: str
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MatarWarning)  # that bytes are divided
            with pytest.raises(DataError, match=sentence) as error:
                doors(tmp_path)[door](*change(DATA.x_test, DATA.y_test))
        assert "\n" not in str(error.value)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda x, y: (x / 100.0, y), "use 1.0% of the range"),
            (lambda x, y: (1.3 * x, y), "are outside of the range"),
            (lambda x, y: (x, np.full_like(y, 3)), "All 60 labels of .* are 3"),
        ],
    )
    def test_warns_once(
        self, tmp_path: Path, door: str, change: Any, sentence: str
    ) -> None:
        given = change(DATA.x_test, DATA.y_test)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("default")
            doors(tmp_path)[door](*given)
        assert [one.category for one in found] == [MatarWarning]
        with pytest.warns(MatarWarning, match=sentence):
            check_data(digits_artifact(), Data(x_test=given[0], y_test=given[1]))


def test_one_may_insist(tmp_path: Path) -> None:
    artifact, file, given = (
        digits_artifact(),
        content(),
        (255 * DATA.x_test, DATA.y_test),
    )
    insisting: dict[str, Callable[[Any], object]] = {
        "search": lambda more: mt.search(artifact, "mpic", given, **OPTIONS, **more),
        "holdout": lambda more: mt.search(
            artifact, "mpic", given, holdout=0.5, **OPTIONS, **more
        ),
        "evaluate": lambda more: mt.evaluate(file, given, **more),
        "export": lambda more: mt.export(
            artifact, "w8a8", tmp_path / "a.tflite", data=given, **more
        ),
        "measure": lambda more: mt.measure(
            artifact, given, num_policies=12, progress=False, **more
        ),
    }
    for name, door in insisting.items():
        with pytest.raises(OddDataError, match="or pass allow_odd_data=True to go on"):
            door({})
        with pytest.warns(MatarWarning, match=r"input grid, 0\.\.1, got 0\.\.255"):
            assert door({"allow_odd_data": True}), name


@pytest.mark.parametrize("form", ["column", "bytes"])
def test_every_door_takes_the_same(tmp_path: Path, form: str) -> None:
    x, y = DATA.x_test, DATA.y_test
    policy = digits_artifact().space.named("w8a8")
    given = (x, y[:, None]) if form == "column" else (np.uint8(np.round(255 * x)), y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MatarWarning)
        expected = mt.evaluate(content(), (np.round(255 * x) / np.float32(255), y))
        expected = mt.evaluate(content(), (x, y)) if form == "column" else expected
        assert mt.evaluate(content(), given) == expected
        assert PolicyEvaluator(digits_artifact(), *given)(policy) == expected


def test_processes_do_not_repeat_it(capfd: pytest.CaptureFixture[str]) -> None:
    data = replace(DATA, x_test=1.3 * DATA.x_test, x_train=None, y_train=None)
    with pytest.warns(MatarWarning) as found:
        mt.search(digits_artifact(), "mpic", data, jobs=2, **OPTIONS)
    assert len(found) == 1
    assert "MatarWarning" not in capfd.readouterr().err


class TestPrograms:
    @pytest.mark.parametrize("name", ["search", "export", "compare", "evaluate"])
    @pytest.mark.parametrize("factor", [255.0, 1.3])
    def test_say_it_in_one_line(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        name: str,
        factor: float,
    ) -> None:
        write_digits(tmp_path)
        data = np.load(tmp_path / "data.npz")
        np.savez(
            tmp_path / "data.npz",
            x_test=factor * data["x_test"][:60],
            y_test=data["y_test"][:60],
        )
        (tmp_path / "a.tflite").write_bytes(content())
        values: dict[str, Any] = {"artifact": str(tmp_path / "net.matar")}
        output = str(tmp_path / "out.tflite")
        values |= {
            "search": {"targets": ["mpic"], "output": str(tmp_path / "out")}
            | {"max_evaluations": 4, "compare": "none"},
            "export": {"policies": ["w8a8"], "output": output},
            "compare": {"num_random": 0},
            "evaluate": {"artifact": None, "model": str(tmp_path / "a.tflite")},
        }[name]
        values = {one: value for one, value in values.items() if value is not None}
        values |= {"data": str(tmp_path / "data.npz")}
        if factor == 255.0:
            line = fails(capsys, name, **values)
            assert "input grid, 0..1, got 0..255" in line
            assert "or pass --allow_odd_data to go on" in line
            assert not (tmp_path / "out").exists()
            assert not (tmp_path / "out.tflite").exists()
            return
        assert call(name, **values) == 0
        lines = capsys.readouterr().err.splitlines()
        ours = [line for line in lines if line.startswith("MatarWarning: ")]
        assert len(ours) == 1
        assert "are outside of the range" in ours[0]

    def test_a_library_that_changes_filters_repeats_nothing(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def run(_: object) -> int:
            for _ in range(2):
                warnings.warn("This is odd.", MatarWarning, stacklevel=1)
                warnings.simplefilter("ignore", ImportWarning)
            return 0

        command = Command(text="Warns.", define=lambda _: None, run=run)
        assert program(command, "warns", []) == 0
        assert capsys.readouterr().err == "MatarWarning: This is odd.\n"
