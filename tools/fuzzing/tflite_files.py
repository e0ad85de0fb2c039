"""``.tflite`` files with changed fields, or changed bytes."""

from __future__ import annotations

import random
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from matar_tf.api import evaluate, inspect
from matar_tf.tflite._schema import is_decoded, parse_stored, text_of, write_model
from matar_tf.tflite.simulator import simulate
from tools.fuzzing.inputs import ContradictionError, Door, Input, Kind
from tools.fuzzing.programs import run
from tools.fuzzing.seeds import any_seed
from tools.fuzzing.values import any_float, any_int, any_text, change_bytes

__all__ = ["TFLITE", "change_model"]

_MODEL, _DATA, _ARTIFACT = "model.tflite", "data.npz", "net.matar"
_IMPOSSIBLE: Final = (
    *(AttributeError, LookupError, OverflowError, TypeError, ValueError, struct.error),
)


def change_model(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Returns a good file of which a field or two are others, and which they are."""
    while True:
        model = parse_stored(content)
        try:
            words = [
                (_change_harmlessly if rng.random() < 0.6 else _change_field)(
                    rng, model
                )
                for _ in range(rng.choice([1, 1, 2]))
            ]
            return write_model(model), "; ".join(words)
        except _IMPOSSIBLE:
            continue  # a value that the format cannot hold, or a second change of one


def _change_harmlessly(rng: random.Random, model: Any) -> str:
    """Changes what a file may hold: other numbers, names, steps within reason."""
    graph = model.subgraphs[0]
    tensor = rng.choice(graph.tensors)
    match rng.randrange(5):
        case 0 | 1:
            buffer = model.buffers[tensor.buffer]
            if buffer.data is None or not len(buffer.data):
                return _change_harmlessly(rng, model)
            data = np.array(buffer.data, np.uint8)
            # The low bytes alone, since the numbers may be sizes or indices.
            at = rng.randrange(len(data))
            data[at] ^= 1 << rng.randrange(8)
            buffer.data = data
            return f"a bit of byte {at} of buffer {tensor.buffer}"
        case 2:
            if tensor.quantization is None or tensor.quantization.scale is None:
                return _change_harmlessly(rng, model)
            factor = rng.choice([0.25, 0.9, 1.0001, 1.5, 4.0])
            tensor.quantization.scale = np.asarray(
                np.asarray(tensor.quantization.scale) * factor, np.float32
            )
            return f"scale of {text_of(tensor.name)} times {factor}"
        case 3:
            tensor.name = any_text(rng).encode("utf-8", "replace")
            return f"name {tensor.name[:20]!r}"
        case _:
            model.description = any_text(rng).encode("utf-8", "replace")
            return "description"


def _change_field(rng: random.Random, model: Any) -> str:
    """Changes one field of one object, or the objects of a list."""
    by_class: dict[str, list[Any]] = defaultdict(list)
    _collect(model, by_class)
    if rng.random() < 0.15:
        return _change_graph(rng, model)
    name = rng.choice(sorted(by_class))
    holder = rng.choice(by_class[name])
    field = rng.choice(sorted(vars(holder)))
    before = getattr(holder, field)
    after = _other(rng, before)
    setattr(holder, field, after)
    return f"{name.removesuffix('T')}.{field}: {str(before)[:40]} -> {str(after)[:40]}"


def _collect(value: Any, by_class: dict[str, list[Any]]) -> None:
    if isinstance(value, list):
        for one in value:
            _collect(one, by_class)
    elif getattr(value, "__dict__", None):
        by_class[type(value).__name__].append(value)
        for one in vars(value).values():
            _collect(one, by_class)


def _other(rng: random.Random, value: Any) -> Any:
    """Returns another value of a field, mostly of its type."""
    match value:
        case bool():
            return not value
        case int():
            near = [value + 1, value - 1, value ^ 1, 0]
            return rng.choice([*near, any_int(rng), any_int(rng)])
        case float():
            return any_float(rng)
        case bytes() | str():
            return rng.choice([None, any_text(rng).encode("utf-8", "replace")])
        case None:
            vectors = [np.array([], np.int32), np.array([any_float(rng)], np.float32)]
            return rng.choice([*vectors, np.array([0, 1, -1], np.int32)])
        case list():
            return _other_list(rng, value)
        case np.ndarray():
            return _other_vector(rng, value)
        case _:
            return None


def _other_list(rng: random.Random, values: list[Any]) -> Any:
    if not values or rng.random() < 0.1:
        return rng.choice([None, []])
    if isinstance(values[0], (int, float)):
        return _other_vector(rng, np.array(values))
    at = rng.randrange(len(values))
    other = rng.randrange(len(values))
    match rng.randrange(4):
        case 0:
            return values[:at] + values[at + 1 :]
        case 1:
            return [*values, values[at]]
        case 2:
            return values[:at]
        case _:
            changed = list(values)
            changed[at], changed[other] = changed[other], changed[at]
            return changed


def _other_vector(rng: random.Random, values: np.ndarray) -> Any:
    with np.errstate(all="ignore"):
        match rng.randrange(6):
            case 0:
                return rng.choice([None, values[:0]])
            case 1:
                return values[:-1]
            case 2:
                return np.concatenate([values, values[-1:], values[-1:]])
            case _:
                if not len(values):
                    return None
                changed = values.copy()
                at = rng.randrange(len(values))
                if values.dtype.kind == "f":
                    changed[at] = np.float64(any_float(rng)).astype(values.dtype)
                else:
                    bits = 8 * values.dtype.itemsize
                    number = any_int(rng) % (1 << bits)
                    changed[at] = np.array(number, np.uint64).astype(values.dtype)
                return changed


def _change_graph(rng: random.Random, model: Any) -> str:
    """Changes what refers to what, or which operator stands where."""
    graph = model.subgraphs[0]
    operator, other = rng.choice(graph.operators), rng.choice(graph.operators)
    tensors = list(range(-1, len(graph.tensors)))
    match rng.randrange(8):
        case 0:
            inputs = list(operator.inputs)
            inputs[rng.randrange(len(inputs))] = rng.choice(tensors)
            operator.inputs = inputs
            return f"inputs {inputs}"
        case 1:
            operator.inputs = list(operator.inputs)[:-1]
            return "an input less"
        case 2:
            operator.builtinOptions = other.builtinOptions
            operator.builtinOptionsType = other.builtinOptionsType
            return "options of another operator"
        case 3:
            operator.opcodeIndex = other.opcodeIndex
            return "kind of another operator"
        case 4:
            code = rng.choice(model.operatorCodes)
            code.builtinCode = rng.randrange(210)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.customCode = rng.choice([None, b"FlexMatMul", b"Mine"])
            return f"operator {code.builtinCode}"
        case 5:
            tensor = rng.choice(graph.tensors)
            tensor.type = rng.randrange(20)
            return f"type {tensor.type}"
        case 6:
            one, two = rng.choice(graph.tensors), rng.choice(graph.tensors)
            one.buffer, one.shape = two.buffer, two.shape
            return "buffer and shape of another tensor"
        case _:
            one, two = rng.choice(graph.tensors), rng.choice(graph.tensors)
            one.quantization = two.quantization
            return "grid of another tensor"


def _make(rng: random.Random) -> Input:
    seed = any_seed(rng)
    which = rng.choice(sorted(seed.files))
    original = seed.files[which]
    door = rng.choice(["inspect", "verify", "evaluate", *sorted(_RUN), *sorted(_RUN)])
    if rng.random() < 0.15:
        content, words = change_bytes(rng, original), "bytes"
    else:
        content, words = change_model(rng, original)
    files = {_MODEL: content, _DATA: seed.data}
    if door == "verify":
        files[_ARTIFACT] = seed.archive
    return Input(
        kind=TFLITE.name,
        door=door,
        change=f"{seed.artifact.name} {which}: {words}",
        files=files,
        must_be_refused=door == "verify" and content != original,
    )


def _evaluate(folder: Path) -> None:
    with np.load(folder / _DATA) as data:
        given = data["x_test"], data["y_test"]
    content = (folder / _MODEL).read_bytes()
    runtime = "tflm" if is_decoded(content) else "litert"
    metrics = evaluate(content, given, runtime=runtime)
    if not 0 <= metrics["accuracy"] <= 1:
        raise ContradictionError(f"metrics {metrics}")


def _simulate(folder: Path) -> None:
    with np.load(folder / _DATA) as data:
        simulate((folder / _MODEL).read_bytes(), data["x_test"])


def _inspect(folder: Path) -> None:
    repr(inspect(folder / _MODEL))


def _program(folder: Path) -> None:
    run("evaluate", folder / _MODEL, f"--data={folder / _DATA}", "--operators")


def _verify(folder: Path) -> None:
    run("verify", folder / _MODEL, folder / _ARTIFACT)


_DOORS: Final[dict[str, Door]] = {
    "evaluate": _evaluate,
    "simulate": _simulate,
    "inspect": _inspect,
    "program": _program,
    "verify": _verify,
}
_RUN: Final = frozenset({"evaluate", "simulate", "program"})
TFLITE: Final = Kind(name="tflite", share=38, make=_make, doors=_DOORS, runs=_RUN)
