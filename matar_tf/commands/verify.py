"""Checks an artifact, or that a ``.tflite`` file is what an artifact makes.

Of an artifact: that the manifest and every member are as their SHA-256 says, and that
they belong together; ``SHA-256`` is that of all of it, for ``--expect_digest``, and the
artifact digest is what its files and stores name it by. Of a file: what it says of
itself and, with ``--artifact``, that the artifact makes the same bytes for that policy.
With ``--trust`` the artifact must be signed by that key. Needs no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given

if TYPE_CHECKING:
    from absl.flags import FlagValues

    from matar_tf.artifact import Artifact
    from matar_tf.policy import Policy

__all__ = ["COMMAND"]

_MODEL_SUFFIX: Final = ".tflite"
# What a file says by itself; the rest of its metadata is what it was exported with.
_OWN_KEYS: Final = (
    *("about", "artifact_digest", "io", "kernels", "notes", "policy", "profile"),
    "stored_bits",
)


def _define(values: FlagValues) -> None:
    _flags.artifact(values)
    _flags.expect_digest(values)
    _flags.trust(values)
    _flags.model(values, "Path of a .tflite file.")


def _run(given: Given) -> int:
    """Checks; prints what was checked."""
    from matar_tf.artifact import read_artifact

    path, model = _asked(given)
    artifact = None
    if path is not None:
        artifact = read_artifact(
            path, expect_digest=given.expect_digest, trust=given.trust
        )
        _print_artifact(path, artifact)
    if model is not None:
        _check_model(Path(model), artifact)
    return 0


def _asked(given: Given) -> tuple[str | None, str | None]:
    """Returns the paths of the artifact and of the file; a word may be the one.

    Raises:
      MatarError: If there is neither, or one of the two is there twice.
    """
    from matar_tf.errors import MatarError

    found = {"artifact": given.artifact, "model": given.model}
    for word in given.words:
        flag = "model" if word.endswith(_MODEL_SUFFIX) else "artifact"
        if found[flag] is not None:
            raise MatarError(
                f"Expected one --{flag}, got {found[flag]!r} and {word!r}; leave one "
                "out."
            )
        found[flag] = word
    if found["artifact"] is None and found["model"] is None:
        raise MatarError(
            "Expected an artifact or a .tflite file, got neither; see "
            "`matar verify --help`."
        )
    for flag in ("expect_digest", "trust"):
        if found["artifact"] is None and getattr(given, flag) is not None:
            raise MatarError(
                f"Expected an artifact beside --{flag}, got none; name it with "
                "--artifact."
            )
    return found["artifact"], found["model"]


def _print_artifact(path: str, artifact: Artifact) -> None:
    from matar_tf.packaged import UNVERIFIED

    has_network = "network.json" in artifact.extras
    print(f"{path}: an artifact of {artifact.space.size_text(of_policies=True)}")
    print("  members          as their SHA-256 in the manifest says")
    print(f"  Keras network    {'there, among them' if has_network else 'none'}")
    if not artifact.is_verified:
        print(f"  figures          {UNVERIFIED}")
    print(f"  SHA-256          {artifact.source and artifact.source.digest}")
    print(f"  artifact digest  {artifact.digest()}")
    print(f"  signature        {_signature(path, artifact)}")


def _signature(path: str, artifact: Artifact) -> str:
    from matar_tf.signing import signature_path

    if artifact.source is not None and artifact.source.signed_by:
        return f"by {artifact.source.signed_by}, which is trusted"
    there = signature_path(path).is_file()
    return "there, not checked: name a key with --trust" if there else "none"


def _check_model(path: Path, artifact: Artifact | None) -> None:
    """Prints what a file says of itself; checks that an artifact makes it.

    Raises:
      ExportError: If it does not, or the file says nothing of itself.
    """
    from matar_tf.errors import ExportError, readable_line
    from matar_tf.tflite.export import read_model
    from matar_tf.tflite.metadata import read_metadata

    content = read_model(path)
    metadata = read_metadata(content)
    policy = _policy_of(metadata, path)
    digest, profile = metadata.get("artifact_digest"), metadata.get("profile")
    print(f"{path}: {len(content)} bytes, says of itself:")
    print(f"  policy           {_bits(policy.weights)} weights, ", end="")
    print(f"{_bits(policy.activations)} activations")
    print(readable_line(f"  profile          {profile}"))
    print(readable_line(f"  artifact digest  {digest}"))
    if "signed_by" in metadata:
        print(readable_line(f"  signed by        {metadata['signed_by']}"))
    if artifact is None:
        print("  not compared with an artifact: name it with --artifact")
        return
    if digest != artifact.digest():
        raise ExportError(
            f"Expected a file of the artifact {artifact.digest()}, but {path} says "
            f"that it is of {digest}; name the artifact that it was exported from."
        )
    from matar_tf.tflite.about import ABOUT_KEY
    from matar_tf.tflite.build import ModelBuilder

    builder = ModelBuilder(artifact)
    others = {key: metadata[key] for key in metadata if key not in _OWN_KEYS}
    if ABOUT_KEY in metadata:
        others |= builder.about(str(profile))
    ends = metadata.get("io")
    io = str(ends.get("type")) if isinstance(ends, dict) else "float32"
    made = builder.build(policy, others, profile=str(profile), io=io)
    if made != content:
        raise ExportError(
            f"Expected in {path} the {len(made)} bytes that the artifact makes for its "
            "policy, got others; it was altered, or exported by another version of "
            "matar_tf: export it again."
        )
    print("  bytes            those that the artifact makes for this policy")


def _policy_of(metadata: dict[str, Any], path: Path) -> Policy:
    from matar_tf.errors import ExportError, PolicyError
    from matar_tf.policy import Policy

    try:
        return Policy.from_json(metadata.get("policy"))
    except PolicyError as error:
        raise ExportError(
            f"Expected a policy in the metadata of {path}, but: {error}"
        ) from error


def _bits(widths: Mapping[str, int]) -> str:
    if not widths:
        return "no"
    low, high = min(widths.values()), max(widths.values())
    return f"{low}-bit" if low == high else f"{low} to {high}-bit"


COMMAND: Final = Command(
    text=__doc__,
    define=_define,
    run=_run,
    words="ARTIFACT | FILE.tflite | both",
)
