"""Artifacts as folders whose digests do not hold, and as files that are signed anew."""

from __future__ import annotations

import io
import json
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.errors import MatarError
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.evaluate import PolicyEvaluator
from matar_tf.tflite.simulator import simulate
from tools.fuzzing.archives import NAMES
from tools.fuzzing.inputs import OUTPUT, ContradictionError, Door, Input, Kind
from tools.fuzzing.programs import run
from tools.fuzzing.seeds import any_seed, content_of, signed, zipped
from tools.fuzzing.tflite_files import change_model
from tools.fuzzing.values import (
    any_float,
    any_text,
    change_bytes,
    change_document,
    change_tree,
    flip_bit,
)

__all__ = ["FOLDER", "SIGNED"]

_ZIP, _FOLDER, _DATA = "net.matar", "net", "data.npz"
_MANIFEST, _TEMPLATE, _ARRAYS = "manifest.json", "template.tflite", "parameters.npz"


# ---- folders whose digests do not hold ---------------------------------------------


def _read(folder: Path) -> str:
    return content_of(read_artifact(folder / _FOLDER))


def _make_folder(rng: random.Random) -> Input:
    seed = any_seed(rng)
    members = dict(seed.members)
    links: dict[str, str] = {}
    name = _MANIFEST if rng.random() < 0.7 else rng.choice(sorted(members))
    match rng.randrange(10):
        case 0:
            del members[name]
            words = f"without {name}"
        case 1:
            links[name] = rng.choice(["/etc/passwd", "../data.npz", "/dev/zero", name])
            del members[name]
            words = f"{name} is a link to {links[name]}"
        case 2:
            usable = [one.replace("/", "_") for one in NAMES if one and "\0" not in one]
            added = rng.choice(usable)[:200]
            members[added] = b"x"
            words = f"with {added!r}"
        case 3 | 4:
            members[name] = change_bytes(rng, members[name])
            words = f"bytes of {name}"
        case _:
            members[name] = flip_bit(rng, members[name])
            words = f"a bit of {name}"
    return Input(
        kind=FOLDER.name,
        door="read",
        change=f"{seed.artifact.name}: {words}",
        files={f"{_FOLDER}/{one}": content for one, content in members.items()},
        links={f"{_FOLDER}/{one}": target for one, target in links.items()},
        expected=content_of(seed.artifact),
    )


FOLDER: Final = Kind(name="folder", share=12, make=_make_folder, doors={"read": _read})


# ---- artifacts that their author signed --------------------------------------------


def _make_signed(rng: random.Random) -> Input:
    seed = any_seed(rng)
    changes = [
        _template,
        _template,
        _template,
        _arrays,
        _arrays,
        _retrained,
        _retrained,
    ]
    change = rng.choice([*changes, _retrained, _text, _accuracy, _figures])
    members = dict(seed.members)
    manifest = json.loads(members[_MANIFEST])
    words, contradicts = change(rng, members, manifest)
    try:
        files = signed(members, manifest)
    except (TypeError, AttributeError):
        files = {**members, _MANIFEST: json.dumps(manifest).encode()}
    doors = ["build", "cost", "verify", *sorted(_RUN), *sorted(_RUN)]
    return Input(
        kind=SIGNED.name,
        door=rng.choice(doors),
        change=f"{seed.artifact.name}: {words}",
        files={_ZIP: zipped(files), _DATA: seed.data},
        must_be_refused=contradicts,
    )


_Change = Callable[[random.Random, dict[str, bytes], dict[str, Any]], tuple[str, bool]]


def _template(
    rng: random.Random, members: dict[str, bytes], manifest: dict[str, Any]
) -> tuple[str, bool]:
    del manifest
    members[_TEMPLATE], words = change_model(rng, members[_TEMPLATE])
    return f"template: {words}", False


def _unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _arrays(
    rng: random.Random, members: dict[str, bytes], manifest: dict[str, Any]
) -> tuple[str, bool]:
    """Changes numbers, shapes or types of parameters, or their index."""
    del manifest
    stored = _unzipped(members[_ARRAYS])
    name = rng.choice(sorted(stored))
    if name.endswith(".json"):
        stored[name] = change_document(rng, stored[name])
    elif rng.random() < 0.15:
        stored[name] = change_bytes(rng, stored[name])
    else:
        array = np.load(io.BytesIO(stored[name]))
        buffer = io.BytesIO()
        np.save(buffer, _other_array(rng, array))
        stored[name] = buffer.getvalue()
    members[_ARRAYS] = zipped(stored, zipfile.ZIP_DEFLATED)
    return f"parameters: {name}", False


def _retrained(
    rng: random.Random, members: dict[str, bytes], manifest: dict[str, Any]
) -> tuple[str, bool]:
    """Gives all numbers of some arrays other values of their size."""
    del manifest
    stored = _unzipped(members[_ARRAYS])
    noise = np.random.default_rng(rng.getrandbits(64))
    names = sorted(name for name in stored if name.endswith(".npy"))
    chosen = rng.sample(names, rng.randint(1, len(names)))
    for name in chosen:
        array = np.load(io.BytesIO(stored[name]))
        if array.dtype.kind == "f":
            factors = noise.uniform(0.7, 1.4, array.shape).astype(array.dtype)
            buffer = io.BytesIO()
            np.save(buffer, array * factors)
            stored[name] = buffer.getvalue()
    members[_ARRAYS] = zipped(stored, zipfile.ZIP_DEFLATED)
    return f"parameters: noise on {len(chosen)} arrays", False


def _other_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    changed = np.array(array)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match rng.randrange(8):
            case 0 | 1 | 2 | 3 if changed.size:
                number = rng.choice([any_float(rng), rng.uniform(0.5, 2.0)])
                at = rng.randrange(changed.size)
                kept = changed.reshape(-1)
                kept[at] = np.float64(number).astype(changed.dtype)
                return kept.reshape(changed.shape)
            case 4:
                return changed * np.asarray(any_float(rng), changed.dtype)
            case 5:
                return changed.reshape(-1)[: rng.randrange(changed.size + 1)]
            case 6:
                kind = rng.choice(["f8", "f2", "i4", "u1", "b1", "c8", ">f4", "S3"])
                return changed.astype(kind)
            case _:
                return changed[None]


def _text(
    rng: random.Random, members: dict[str, bytes], manifest: dict[str, Any]
) -> tuple[str, bool]:
    """Changes the manifest, anywhere but among the digests."""
    del members
    key = rng.choice(["space", "workload", "template_map", "provenance", "accuracy"])
    for _ in range(rng.choice([1, 1, 2])):
        manifest[key] = change_tree(rng, manifest[key])
    if rng.random() < 0.1:
        manifest[any_text(rng)] = manifest.pop(key)
    return f"manifest: {key}", False


def _accuracy(
    rng: random.Random, members: dict[str, bytes], manifest: dict[str, Any]
) -> tuple[str, bool]:
    """Writes an accuracy that no network has."""
    del members
    wrong = rng.choice([99.0, -5.0, 1.0001, -0.01, 1e300, 100])
    manifest["accuracy"] = {rng.choice(["float", "w8a8"]): {"accuracy": wrong}}
    return f"accuracy {wrong}", True


def _figures(
    rng: random.Random, members: dict[str, bytes], manifest: dict[str, Any]
) -> tuple[str, bool]:
    """Writes a workload that is not the template's."""
    del members
    numbers = [
        (layer, key)
        for layer in manifest["workload"]["layers"]
        for key, value in layer.items()
        if type(value) is int and value
    ]
    layer, key = rng.choice(numbers)
    before = layer[key]
    layer[key] = rng.choice([before + 1, before * 100, max(before // 100, 0)])
    return f"{key} of {layer.get('name')} {before} -> {layer[key]}", layer[
        key
    ] != before


def _builder(folder: Path) -> tuple[Artifact, ModelBuilder]:
    artifact = read_artifact(folder / _ZIP)
    return artifact, ModelBuilder(artifact)


def _policies(artifact: Artifact) -> list[Any]:
    found: list[Any] = []
    for name in ("w4a4", "w8a8", "w2a2"):
        try:
            found.append(artifact.space.policy(name))
        except MatarError:
            continue
    return found


def _build(folder: Path) -> None:
    artifact, builder = _builder(folder)
    repr(artifact)
    for policy in _policies(artifact):
        for profile in ("int8", "packed-litert", "packed-float"):
            builder.build(policy, profile=profile)


def _arrays_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(folder / _DATA) as data:
        return data["x_test"], data["y_test"]


def _evaluate(folder: Path) -> None:
    artifact = read_artifact(folder / _ZIP)
    samples, labels = _arrays_of(folder)
    evaluator = PolicyEvaluator(artifact, samples, labels)
    for policy in _policies(artifact)[:2]:
        metrics = evaluator(policy)
        if not 0 <= metrics["accuracy"] <= 1:
            raise ContradictionError(f"metrics {metrics}")


def _simulate(folder: Path) -> None:
    artifact, builder = _builder(folder)
    for policy in _policies(artifact)[:1]:
        simulate(builder.build(policy), _arrays_of(folder)[0])


def _cost(folder: Path) -> None:
    run(
        *("cost", folder / _ZIP, "--policies=w8a8,w4a4", "--format=csv"),
        "--targets=mpic,bitfusion_16x32",
    )


def _export(folder: Path) -> None:
    path = folder / OUTPUT / "x.tflite"
    words = ("export", folder / _ZIP, "--policy=w4a4", "--compare=none")
    run(*words, f"--output={path}", f"--data={folder / _DATA}")


def _verify(folder: Path) -> None:
    run("verify", folder / _ZIP)


_DOORS: Final[dict[str, Door]] = {
    "build": _build,
    "evaluate": _evaluate,
    "simulate": _simulate,
    "cost": _cost,
    "export": _export,
    "verify": _verify,
}
_RUN: Final = frozenset({"evaluate", "simulate", "export"})
SIGNED: Final = Kind(
    name="signed", share=32, make=_make_signed, doors=_DOORS, runs=_RUN
)
