"""Bars: claims of the project, each with what was measured for it."""

from __future__ import annotations

from dataclasses import dataclass

from matar_tf.results import Provenance

__all__ = ["Bar", "provenance"]


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
