"""Samples and labels: ``.npz`` files and the arrays in them."""

from __future__ import annotations

import hashlib
import io
import random
import warnings
from pathlib import Path
from typing import Final

import numpy as np

from matar_tf.api import evaluate
from matar_tf.data import load_data
from tools.fuzzing.inputs import ContradictionError, Door, Input, Kind
from tools.fuzzing.programs import run
from tools.fuzzing.seeds import any_seed, zipped
from tools.fuzzing.values import any_float, any_int, change_bytes, flip_bit

__all__ = ["DATA"]

_DATA, _MODEL = "data.npz", "model.tflite"
_KEYS: Final = ("x_test", "y_test", "x_train", "y_train")
_DTYPES: Final = (
    "f2",
    "f4",
    "f8",
    "u1",
    "i1",
    "i8",
    "b1",
    "c8",
    "O",
    "S4",
    "U2",
    "M8[s]",
)
_SHAPES: Final = (
    *("()", "(0,)", "(1000000000000,)", "(-1,)", "(4, 0)", "(99999999999999999999,)"),
    *("(4,", "4", "(4.0,)", "(True,)", "(" + "1," * 64 + ")", "(1,) * 9", "(None,)"),
)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _make(rng: random.Random) -> Input:
    seed = any_seed(rng)
    arrays = {
        "x_test": seed.samples,
        "y_test": seed.labels,
        "x_train": seed.samples[::-1],
        "y_train": seed.labels[::-1],
    }
    members = {f"{key}.npy": _npy(array) for key, array in arrays.items()}
    key = rng.choice(_KEYS)
    name = f"{key}.npy"
    expected = None
    match rng.randrange(10):
        case 0 | 1:
            content = flip_bit(rng, zipped(members))
            words, expected = "a bit", _text(arrays)
        case 2:
            content, words = change_bytes(rng, zipped(members)), "bytes"
        case 3 | 4:
            members[name] = _npy(_other_array(rng, arrays[key]))
            content, words = zipped(members), f"array {key}"
        case 5 | 6:
            members[name] = _header(rng, members[name])
            content, words = zipped(members), f"header of {key}"
        case 7:
            other = rng.choice(
                ["../outside/canary.npy", "x", "/outside/canary", "a" * 999]
            )
            members[rng.choice([other, "x_test", "X_TEST.npy"])] = members.pop(name)
            content, words = zipped(members), f"{key} has another name"
        case 8:
            members[name] = change_bytes(rng, members[name])
            content, words = zipped(members), f"bytes of {key}"
        case _:
            content, words = members[name], "an array alone"
    return Input(
        kind=DATA.name,
        door="load"
        if expected
        else rng.choice(["load", "train", "evaluate", "program"]),
        change=f"{seed.artifact.name}: {words}",
        files={_DATA: content, _MODEL: seed.files["w8a8_int8"]},
        expected=expected,
    )


def _other_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    changed = np.array(array)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match rng.randrange(6):
            case 0:
                number = any_float(rng) if changed.dtype.kind == "f" else any_int(rng)
                at = rng.randrange(changed.size)
                kept = changed.reshape(-1)
                kept[at] = np.float64(min(number, 1e300)).astype(changed.dtype)
                return kept.reshape(changed.shape)
            case 1:
                return changed.astype(rng.choice(_DTYPES))
            case 2:
                return rng.choice(
                    [changed[..., None], changed[0], changed[:0], changed[1:]]
                )
            case 3:
                return np.full_like(changed, rng.choice([0, 1, 9]))
            case 4:
                return np.eye(10)[changed.astype(int).ravel()[:4] % 10]
            case _:
                return changed * np.asarray(rng.choice([-1, 255, 1000]), changed.dtype)


def _header(rng: random.Random, content: bytes) -> bytes:
    """Lets the header of an array claim another type, shape or form."""
    data = content[content.index(b"\n") + 1 :]
    descr = rng.choice(
        [repr(rng.choice(["<f4", "|O", "<f8", "|V9", "x", "<f4,<f4"])), "1"]
    )
    shape = rng.choice(_SHAPES)
    depth = rng.choice([0, 0, 50, 2_000])
    nested = "[" * depth + "]" * depth
    header = rng.choice(
        [
            f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}",
            f"{{'descr': {descr}, 'fortran_order': {shape}, 'shape': (4,), }}",
            f"{{'descr': {nested}, 'fortran_order': 0, 'shape': (1,)}}",
            "{" * depth + "'descr': 1",
            "  \n   {'descr'\n: 1}",
            "__import__('os').system('touch ../outside/canary')",
            "[('a', '<f4')] * 10**9",
            "'" + "x" * depth,
        ]
    ).encode()
    version = rng.choice(
        [b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"]
    )
    size = 2 if version == b"\x01\x00" else 4
    length = len(header) + 1 if rng.random() < 0.9 else rng.choice([0, 1, 65_535])
    return (
        b"\x93NUMPY" + version + length.to_bytes(size, "little") + header + b"\n" + data
    )


def _text(arrays: dict[str, np.ndarray]) -> str:
    """Returns arrays as text that is the same for the same, without training ones."""
    total = hashlib.sha256()
    for key in ("x_test", "y_test"):
        total.update(np.ascontiguousarray(arrays[key]).tobytes())
    return total.hexdigest()


def _load(folder: Path) -> str:
    return _checked(folder, training=False)


def _train(folder: Path) -> str:
    return _checked(folder, training=True)


def _checked(folder: Path, *, training: bool) -> str:
    data = load_data(str(folder / _DATA), training=training)
    samples, labels = data.x_test, data.y_test
    if (
        samples.dtype != np.float32
        or not np.isfinite(samples).all()
        or labels.shape[:1] != samples.shape[:1]
        or labels.dtype not in (np.int64, np.float32)
        or not np.isfinite(labels).all()
    ):
        raise ContradictionError(f"samples {samples.dtype}, labels {labels.shape}")
    if training:  # on classes
        data.training()
    return _text({"x_test": samples, "y_test": labels})


def _evaluate(folder: Path) -> None:
    metrics = evaluate(folder / _MODEL, str(folder / _DATA))
    if not 0 <= metrics["accuracy"] <= 1:
        raise ContradictionError(f"metrics {metrics}")


def _program(folder: Path) -> None:
    run("evaluate", folder / _MODEL, f"--data={folder / _DATA}")


_DOORS: Final[dict[str, Door]] = {
    "load": _load,
    "train": _train,
    "evaluate": _evaluate,
    "program": _program,
}
DATA: Final = Kind(name="data", share=6, make=_make, doors=_DOORS)
