"""Writes the SHA-256 of files exported from the artifacts in recipes/artifacts.

On the code of version 0.1.0 it made `shipped.json`:

    git checkout 97ec0dc
    PYTHONPATH=. python GOLDEN/shipped.py > GOLDEN/shipped.json

with the path of this folder as GOLDEN.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from matar_tf.artifact import read_artifact
from matar_tf.samplers import IndependentSampler, draw_policies
from matar_tf.tflite.build import ModelBuilder

_PROFILES = ("int8", "packed-litert", "packed-float", "packed-portable")  # those then


def digests() -> dict[str, dict[str, dict[str, str]]]:
    """Returns SHA-256 by artifact, profile and policy (three uniform, one drawn)."""
    found = {}
    for path in sorted(Path("recipes/artifacts").glob("*.matar")):
        artifact = read_artifact(path)
        builder = ModelBuilder(artifact)
        policies = {
            name: artifact.space.named(name) for name in ("w8a8", "w4a4", "w2a2")
        }
        drawn = draw_policies(artifact.space, IndependentSampler(), 1, 5)
        policies["drawn"] = drawn[0]
        found[path.name] = {
            profile: {
                name: hashlib.sha256(builder.build(one, profile=profile)).hexdigest()
                for name, one in policies.items()
            }
            for profile in _PROFILES
        }
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(digests(), indent=1) + "\n")
