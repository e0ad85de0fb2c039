"""Cepstral coefficients, against a second computation with NumPy and SciPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures.programs import call, fails, load
from scipy.fft import dct

RATE = 8000
# Sounds from sample 2,400 to 4,799: frame i holds the 320 samples from 160 i on.
START, STOP = 2400, 4800
INSIDE = range(15, 29)  # wholly within the sound
SILENT = [*range(14), *range(30, 49)]  # wholly outside of it


def tone(hertz: float) -> np.ndarray:
    clip = np.zeros(RATE)
    clip[START:STOP] = 0.5 * np.sin(2 * np.pi * hertz * np.arange(STOP - START) / RATE)
    return clip


def mel(hertz: float | np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def cepstrum(clip: np.ndarray) -> np.ndarray:
    """Coefficients of one clip, ``[49, 10]``, frame by frame and band by band."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(320) / 320)
    edges = np.linspace(mel(20.0), mel(4000.0), 42)
    places = mel(np.arange(257) * RATE / 512)
    places[0] = -np.inf  # a constant belongs to no band
    rows = []
    for start in range(0, RATE - 320 + 1, 160):
        spectrum = np.abs(np.fft.rfft(clip[start : start + 320] * window, 512))
        bands = [
            np.interp(places, edges[band : band + 3], [0, 1, 0], 0, 0) @ spectrum
            for band in range(40)
        ]
        logs = np.log(np.asarray(bands) + 1e-6)
        rows.append(dct(logs, type=2, norm=None)[:10] / np.sqrt(2 * 40))
    return np.asarray(rows)


@pytest.mark.parametrize(
    ("hertz", "band"),
    [
        # Centres lie 51.57 mel apart, the first at 83.32: (mel(f) - 83.32) / 51.57.
        (500.0, 10),  # 607.4 mel: 10.2
        (1000.0, 18),  # 1000.0 mel: 17.8
        (2000.0, 28),  # 1521.4 mel: 27.9
    ],
)
def test_a_tone_peaks_in_its_band_in_the_frames_where_it_sounds(
    hertz: float, band: int
) -> None:
    module = load("speech_features")
    clips = tone(hertz)[np.newaxis].astype(np.float32)
    (logs,) = module.log_mel_spectra(clips).numpy()
    assert logs.shape == (49, 40)
    assert set(logs[INSIDE].argmax(axis=1)) == {band}
    np.testing.assert_allclose(logs[SILENT], np.log(1e-6), atol=1e-3)
    assert logs[INSIDE, band].min() > 0.0


def test_coefficients_are_those_of_a_second_computation() -> None:
    module = load("speech_features")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE)
    clips = np.stack([tone(1000.0), noise])
    found = module.mel_cepstrum(clips.astype(np.float32))
    assert found.dtype == np.float32
    assert found.shape == (2, 49, 10, 1)
    for clip, one in zip(clips, found, strict=True):
        np.testing.assert_allclose(one[..., 0], cepstrum(clip), atol=0.02)


def test_writes_training_and_test_sets_on_the_scale_of_the_training_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([2000, 9000, 8000, 5000, 3000, 12000])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    audio = rng.integers(-9000, 9000, offsets[-1]).astype(np.int16)
    labels, index = np.array([3, 1, 4, 1, 5, 9]), np.array([4, 5, 0, 49, 6, 1])
    path, output = tmp_path / "audio.npz", tmp_path / "features.npz"
    np.savez(path, audio=audio, offsets=offsets, label=labels, index=index)
    values = {"audio": str(path), "output": str(output)}
    assert call("speech_features", **values) == 0
    # Cut or padded to a second; takes 0 to 4 are the test set.
    expected = []
    for start, length in zip(offsets[:-1], lengths, strict=True):
        clip = np.zeros(RATE)
        kept = min(length, RATE)
        clip[:kept] = audio[start : start + kept] / 32768.0
        expected.append(cepstrum(clip))
    train = np.stack([expected[i] for i in (1, 3, 4)])
    test = np.stack([expected[i] for i in (0, 2, 5)])
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    with np.load(output) as made:
        assert sorted(made.files) == ["x_test", "x_train", "y_test", "y_train"]
        for name, one in (("x_train", train), ("x_test", test)):
            scaled = (one - mean) / deviation
            np.testing.assert_allclose(made[name][..., 0], scaled, rtol=1e-2, atol=0.02)
        assert made["y_train"].tolist() == [1, 1, 5]
        assert made["y_test"].tolist() == [3, 4, 9]
    assert "x_train  (3, 49, 10, 1)" in capsys.readouterr().out
    assert "free path" in fails(capsys, "speech_features", **values)


def test_an_incomplete_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", audio=np.zeros(9, np.int16))
    values = {"audio": str(tmp_path / "a.npz"), "output": str(tmp_path / "b.npz")}
    assert "offsets" in fails(capsys, "speech_features", **values)
