"""Turns recordings into cepstral coefficients for the recipe ``fsdd_dscnn``.

The input is an ``.npz`` with 16-bit ``audio`` of 8 kHz, cut by ``offsets``, and
``label`` and ``index`` of each recording; those with an index below 5 are the test
set, as the Free Spoken Digit Dataset has it. Needs TensorFlow (`tf.signal`).
"""

from __future__ import annotations

import io
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given
from matar_tf.commands._program import main_of

if TYPE_CHECKING:
    import numpy as np
    from absl.flags import FlagValues

_RATE = 8000  # samples a second
_LENGTH = 8000  # samples: recordings are cut or padded to one second
_WINDOW, _HOP = 320, 160  # 40 ms and 20 ms, as in MLPerf Tiny
_NUM_BANDS, _LOW_HZ, _HIGH_HZ = 40, 20.0, 4000.0
_NUM_COEFFICIENTS = 10
_NUM_TEST_TAKES = 5
_KEYS = ("audio", "offsets", "label", "index")


def log_mel_spectra(audio: np.ndarray) -> Any:
    """Returns the logarithm of each mel band's magnitude, ``[num, 49, 40]``, a tensor.

    Args:
      audio: Recordings in -1..1, float32, ``[num, 8000]``.
    """
    from matar_tf.keras._compat import tf

    spectra = tf.abs(tf.signal.stft(audio, _WINDOW, _HOP, fft_length=512))
    bands = tf.signal.linear_to_mel_weight_matrix(
        _NUM_BANDS, spectra.shape[-1], _RATE, _LOW_HZ, _HIGH_HZ
    )
    return tf.math.log(tf.matmul(spectra, bands) + 1e-6)


def mel_cepstrum(audio: np.ndarray) -> np.ndarray:
    """Returns cepstral coefficients, ``[num, 49, 10, 1]``, float32.

    Args:
      audio: Recordings in -1..1, float32, ``[num, 8000]``.
    """
    from matar_tf.keras._compat import tf

    logs = log_mel_spectra(audio)
    coefficients: Any = tf.signal.mfccs_from_log_mel_spectrograms(logs)
    return coefficients[..., :_NUM_COEFFICIENTS, None].numpy()


def _define(values: FlagValues) -> None:
    flags.DEFINE_string(
        "audio", None, "The recordings, an .npz file.", flag_values=values
    )
    _flags.output(values, "Path of the .npz file to write.")


def _run(given: Given) -> int:
    """Writes x_train, y_train, x_test, y_test; prints their shapes."""
    import numpy as np

    from matar_tf.data import read_arrays
    from matar_tf.errors import DataError
    from matar_tf.io.files import check_parent, write_atomically

    arrays = read_arrays(given.audio, _KEYS, required=_KEYS)
    if Path(given.output).exists():
        raise DataError(f"Expected a free path, but {given.output} exists.")
    check_parent(Path(given.output), DataError)
    audio, offsets = arrays["audio"], arrays["offsets"]
    clips = np.zeros((len(offsets) - 1, _LENGTH), np.float32)
    for row, (start, stop) in enumerate(itertools.pairwise(offsets)):
        clip = audio[start : min(stop, start + _LENGTH)]
        clips[row, : len(clip)] = clip / np.float32(2**15)
    features = mel_cepstrum(clips)
    is_test = arrays["index"] < _NUM_TEST_TAKES
    mean = features[~is_test].mean(axis=0)
    deviation = features[~is_test].std(axis=0)
    features = (features - mean) / deviation
    labels = arrays["label"].astype(np.int64)
    parts = {"train": ~is_test, "test": is_test}
    written = {f"x_{part}": features[chosen] for part, chosen in parts.items()}
    written |= {f"y_{part}": labels[chosen] for part, chosen in parts.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **written)
    write_atomically(Path(given.output), buffer.getvalue())
    for name, value in written.items():
        print(f"{name}  {value.shape}")
    return 0


COMMAND: Final = Command(
    text=__doc__, define=_define, run=_run, required=("audio", "output")
)

if __name__ == "__main__":
    main_of(COMMAND, "tools/benchmarks/speech_features.py")
