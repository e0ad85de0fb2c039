"""Bars: claims of the project, each with what was measured for it; what all share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from matar_tf.results import Provenance

__all__ = ["Bar", "peak_megabytes", "provenance"]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A claim and what was measured for it."""

    name: str
    figure: str
    limit: str
    held: bool


def provenance(
    *,
    seed: int = 0,
    artifact_digest: str = "",
    data_digest: str = "",
    num_samples: int = 1,
) -> Provenance:
    """Returns the provenance of a search whose result is measured and not kept."""
    return Provenance(
        seed=seed,
        command="benchmark",
        versions={},
        artifact_digest=artifact_digest,
        data_digest=data_digest,
        num_samples=num_samples,
        created="2026-01-01T00:00:00+00:00",
    )


def peak_megabytes(command: Sequence[str]) -> float:
    """Returns the largest memory that a program had resident, which must end well."""
    code = (
        "import resource, subprocess, sys;"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout) / 1024
