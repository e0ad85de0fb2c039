"""What commands read of their flags: samples of data, and names."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matar_tf.artifact import Artifact
    from matar_tf.commands._command import Given
    from matar_tf.data import Data

__all__ = [
    "check_names",
    "only_policy",
    "only_target",
    "open_artifact",
    "read_data",
]


def open_artifact(
    path: str | Path, expect_digest: str | None = None, trust: str | None = None
) -> Artifact:
    """Returns an artifact; says which one it is, beside the output.

    Args:
      path: Its directory or file.
      expect_digest: The SHA-256 that it must have, or None.
      trust: Path of the key by which it must be signed, or None.

    Raises:
      ArtifactError: If it cannot be read, or is another one, or not signed so.
    """
    from matar_tf.artifact import read_artifact
    from matar_tf.packaged import UNVERIFIED

    artifact = read_artifact(path, expect_digest=expect_digest, trust=trust)
    digest = artifact.source and artifact.source.digest
    print(f"artifact {path} sha256:{digest}", file=sys.stderr)
    if artifact.source is not None and artifact.source.signed_by:
        print(f"  signed by {artifact.source.signed_by}", file=sys.stderr)
    if not artifact.is_verified:
        print(f"  {UNVERIFIED}", file=sys.stderr)
    return artifact


def read_data(
    given: Given,
    artifact: Artifact | None = None,
    metrics: Sequence[str] | None = None,
    source: str | None = None,
) -> Data:
    """Returns the evaluation samples that ``--data`` and ``--num_samples`` name.

    With an artifact they are compared with it and with what is to be measured; a source
    takes the place of the flag.

    Raises:
      DataError: If there are none, or not so many, or they do not fit the artifact.
    """
    from matar_tf.data import load_data
    from matar_tf.tflite.fitting_data import check_data, for_inputs
    from matar_tf.tflite.odd_data import check_plausible

    data = load_data(source or given.data, training=False)
    if given.num_samples is not None:
        data = data.head(given.num_samples)
    if artifact is not None:
        data = for_inputs(data, artifact.template)
        allowed = given.allow_odd_data
        check_data(artifact, data, metrics=metrics, allow_odd_data=allowed)
        check_plausible(artifact, data, allow_odd_data=allowed)
    return data


def only_policy(given: Given) -> str | None:
    """Returns the one policy of ``--policies``, None where that is not given.

    Raises:
      MatarError: If there are more, or none.
    """
    return _only(given.policies, "policies")


def only_target(given: Given) -> str | None:
    """Returns the one target of ``--targets``, None where that is not given.

    Raises:
      MatarError: If there are more, or none.
    """
    return _only(given.targets, "targets")


def _only(names: list[str] | None, flag: str) -> str | None:
    from matar_tf.errors import MatarError

    if names is not None and len(names) != 1:
        raise MatarError(
            f"Expected one name in --{flag}, got {','.join(names) or 'none'}; name "
            "just one."
        )
    return None if names is None else names[0]


def check_names(given: Given, *flags: str) -> None:
    """Refuses lists of names that are given and empty.

    Raises:
      MatarError: If one is.
    """
    from matar_tf.errors import MatarError

    for flag in flags:
        if getattr(given, flag) == []:
            raise MatarError(
                f"Expected one or more names in --{flag}, got none; leave the flag out "
                "for its default."
            )
