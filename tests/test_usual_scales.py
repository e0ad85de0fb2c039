"""Samples of another scale than those of the network's developer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from matar_tf.data import Data
from matar_tf.errors import OddDataError
from matar_tf.inputs import InputInfo
from matar_tf.tflite.usual_scales import scale_note

UNIT = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 3)) / 255.0
SCALES: dict[str, Any] = {
    "0..1": lambda u: u,
    "-1..1": lambda u: 2.0 * u - 1.0,
    "0..255": lambda u: 255.0 * u,
}


def data(samples: np.ndarray) -> Data:
    labels = np.zeros(len(samples), int)
    return Data(name="mine", x_test=samples.astype(np.float32), y_test=labels)


def info(scale: str) -> InputInfo:
    return InputInfo.of(SCALES[scale](UNIT).astype(np.float32))


@pytest.mark.parametrize("ours", SCALES)
@pytest.mark.parametrize("theirs", SCALES)
def test_each_scale_in_the_place_of_each(ours: str, theirs: str) -> None:
    given = data(SCALES[theirs](UNIT))
    if ours == theirs:
        assert scale_note(given, info(ours)) is None
        return
    with pytest.raises(OddDataError, match=rf"samples of {ours}, as .* of {theirs};"):
        scale_note(given, info(ours))


@pytest.mark.parametrize(
    ("ours", "theirs"), [(a, b) for a in SCALES for b in SCALES if a != b]
)
def test_the_remedy_is_right(ours: str, theirs: str) -> None:
    with pytest.raises(OddDataError) as error:
        scale_note(data(SCALES[theirs](UNIT)), info(ours))
    remedy = str(error.value).partition("; give ")[2].partition(", or pass")[0]
    mended = eval(remedy, {"x": SCALES[theirs](UNIT)})
    np.testing.assert_allclose(mended, SCALES[ours](UNIT), atol=1e-9)


@pytest.mark.parametrize(
    ("ours", "change"),
    [
        # Half the contrast, dark, bright, with noise, a few dirty values.
        *(("0..1", one) for one in (lambda u: u / 2 + 0.25, lambda u: u / 2)),
        ("0..1", lambda u: u / 2 + 0.5),
        ("0..1", lambda u: u + np.random.default_rng(1).normal(0, 0.1, u.shape)),
        ("0..1", lambda u: np.where(np.arange(u.size).reshape(u.shape) % 200, u, 99.0)),
        ("-1..1", lambda u: u - 0.5),
        ("-1..1", lambda u: 0.8 * u + 0.1),
        ("-1..1", lambda u: 0.5 * u),
        ("0..255", lambda u: 20.0 * u),
        ("0..255", lambda u: 127.0 * u + 64.0),
    ],
)
def test_takes_what_is_only_other(ours: str, change: Any) -> None:
    scale_note(data(change(UNIT)), info(ours))


def test_no_usual_scale_and_nothing_known() -> None:
    normal = InputInfo.of(np.random.default_rng(0).normal(size=UNIT.shape))
    assert scale_note(data(UNIT), normal) is None
    assert scale_note(data(255.0 * UNIT), None) is None


def test_speaks_of_means_that_are_far() -> None:
    # Uniform in 0..1: a deviation of 0.29; of the last channel, moved by 0.3.
    moved = UNIT * np.array([1.0, 1.0, 0.5])
    moved[..., 2] += UNIT[..., 2].mean() / 2 + 0.28
    assert scale_note(data(moved), info("0..1")) is None
    moved[..., 2] += 0.03
    note = scale_note(data(moved), info("0..1"))
    assert note is not None
    assert note.startswith("The mean of channel 2 of 'mine' is 0.8")
