"""The good files that are changed: artifacts of the repository, and what they make."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import random
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.errors import ExportError
from matar_tf.policy import Policy
from matar_tf.space import PolicySpace
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.profiles import PROFILES

__all__ = [
    "ROOT",
    "Seed",
    "any_policy",
    "any_seed",
    "content_of",
    "npz",
    "seeds",
    "signed",
    "zipped",
]

ROOT: Final = Path(__file__).resolve().parents[2]
_LARGE: Final = ("cifar10_resnet8",)  # take ten times as long, so they come seldom
_MANIFEST, _DIGEST_KEY = "manifest.json", "manifest_sha256"
_NUM_SAMPLES: Final = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Seed:
    """An artifact, and what belongs to it.

    Attributes:
      artifact: The packaged network.
      archive: It as one zip file.
      members: Its files by name.
      files: A ``.tflite`` file by policy and profile, as ``w4a4_int8``.
      samples: Float samples for it.
      labels: A label for each.
    """

    artifact: Artifact
    archive: bytes
    members: Mapping[str, bytes]
    files: Mapping[str, bytes]
    samples: np.ndarray
    labels: np.ndarray

    @functools.cached_property
    def data(self) -> bytes:
        """An ``.npz`` file of samples and labels."""
        return npz({"x_test": self.samples, "y_test": self.labels})


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns the bytes of an ``.npz`` file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Returns a zip file of members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def content_of(artifact: Artifact) -> str:
    """Returns what an artifact says and vouches for, as text that is equal for equals.

    Nothing in older ones covers their figures, where they come from, and the widths
    that they offer: an artifact of fewer widths is as whole as the other.
    """
    accuracy = {name: dict(row) for name, row in artifact.accuracy.items()}
    space = artifact.space
    vouched: list[object] = [sorted(space.weights), sorted(space.activations)]
    if artifact.is_verified:
        vouched = [artifact.digest(), space.to_json(), accuracy, artifact.provenance]
    parts = {
        "vouched": vouched,
        "template": hashlib.sha256(artifact.template).hexdigest(),
        "parameters": artifact.parameters.digest().hex(),
        "workload": artifact.workload.to_json(),
        "template_map": artifact.template_map.to_json(),
        "extras": {
            name: hashlib.sha256(content).hexdigest()
            for name, content in artifact.extras.items()
        },
    }
    return json.dumps(parts, sort_keys=True)


def signed(members: Mapping[str, bytes], manifest: dict[str, Any]) -> dict[str, bytes]:
    """Returns the members of an artifact with a manifest whose digests hold."""
    others = {name: members[name] for name in members if name != _MANIFEST}
    manifest["sha256"] = {
        name: hashlib.sha256(content).hexdigest() for name, content in others.items()
    }
    if _DIGEST_KEY in manifest:
        covered = {key: manifest[key] for key in manifest if key != _DIGEST_KEY}
        text = json.dumps(covered, separators=(",", ":"))
        manifest[_DIGEST_KEY] = hashlib.sha256(text.encode()).hexdigest()
    return {**others, _MANIFEST: json.dumps(manifest).encode()}


@functools.cache
def seeds() -> tuple[Seed, ...]:
    """Returns all seeds; the large ones last."""
    paths = sorted((ROOT / "tests/data").glob("*.matar"))
    paths.append(ROOT / "tests/golden/net.matar")
    paths += [ROOT / f"recipes/artifacts/{name}.matar" for name in _LARGE]
    return tuple(map(_seed, paths))


def any_seed(rng: random.Random) -> Seed:
    """Returns one of the seeds, a large one seldom."""
    num_small = len(seeds()) - len(_LARGE)
    return seeds()[rng.randrange(num_small) if rng.random() < 0.98 else -1]


def any_policy(rng: random.Random, space: PolicySpace) -> Policy:
    """Returns a policy of a space, each entry of a width of its own."""
    return Policy(
        weights={name: rng.choice(bits) for name, bits in space.weights.items()},
        activations={
            name: rng.choice(bits) for name, bits in space.activations.items()
        },
    )


def _seed(path: Path) -> Seed:
    artifact = read_artifact(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    workload = artifact.workload
    shape = workload.tensors[workload.inputs[0]].shape
    num_classes = workload.tensors[workload.outputs[0]].shape[0]
    rng = np.random.default_rng(0)
    return Seed(
        artifact=artifact,
        archive=path.read_bytes(),
        members=members,
        files=_files(artifact),
        samples=rng.random((_NUM_SAMPLES, *shape), np.float32),
        labels=np.arange(_NUM_SAMPLES) % max(num_classes, 2),
    )


def _files(artifact: Artifact) -> dict[str, bytes]:
    builder = ModelBuilder(artifact)
    policies = {name: artifact.space.policy(name) for name in ("w8a8", "w4a4")}
    policies["mixed"] = any_policy(random.Random(0), artifact.space)
    files: dict[str, bytes] = {}
    for name, policy in policies.items():
        for profile in PROFILES:
            try:
                files[f"{name}_{profile}"] = builder.build(policy, profile=profile)
            except ExportError:
                continue  # not every network has a form in every profile
    return files
