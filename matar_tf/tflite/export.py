"""Writing ``.tflite`` files that were seen to work.

A file is opened in the profile's runtime before it is written; if there is a reference
(the Keras network under the same policy), the outputs of both are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matar_tf.errors import ExportError
from matar_tf.io.files import as_path, check_parent, read_at_most, write_atomically
from matar_tf.named_arrays import Arrays, by_name, num_rows
from matar_tf.packaged import check_no_member
from matar_tf.policy import Policy
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import outputs_of
from matar_tf.tflite.heads import least_agreement
from matar_tf.tflite.metadata import read_metadata
from matar_tf.tflite.profiles import get_profile
from matar_tf.tflite.runtime import Runner

__all__ = [
    "EXPECTED_AGREEMENT",
    "MIN_AGREEMENT",
    "ExportedModel",
    "Reference",
    "check_output",
    "export_model",
    "read_model",
]

EXPECTED_AGREEMENT: Final = 0.995
MIN_AGREEMENT: Final = 0.98
_MAX_BYTES: Final = 1 << 29  # of a file; those of large image networks have 250 MB

Reference = Callable[[Policy, Any], Any]  # from samples to outputs, by name if several


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportedModel:
    """A file that was written.

    Attributes:
      path: Where it is.
      num_bytes: Its size.
      agreement: Share of the samples with the same largest output as the reference
        (of a network of one output, with one that is at most a step off), or None
        where there was none; of several outputs, of the one that agrees least.
      notes: Why a kernel is stored wider than the profile's narrowest, by entry.
      sources: Where C++ sources of it are; see `matar_tf.tflite.c_sources`.
    """

    path: Path
    num_bytes: int
    agreement: float | None
    notes: Mapping[str, str]
    sources: tuple[Path, ...] = ()


def check_output(
    path: str | Path, *, overwrite: bool = False, suffix: str = ".tflite"
) -> None:
    """Checks that a file of a network may be written at a path.

    Args:
      path: The path.
      overwrite: Whether a file may be there.
      suffix: What it must end in.

    Raises:
      ExportError: If the path has another ending, a folder is there, or a file is and
        `overwrite` is False, or the folder that it would be in is not there or is an
        artifact.
    """
    path = as_path(path, "the file", ExportError)
    if path.suffix != suffix:
        raise ExportError(f"Expected a path that ends in {suffix}, got {path}.")
    if path.is_dir():
        raise ExportError(
            f"Expected a free path or a file at {path}, got a folder; choose another "
            "path."
        )
    if path.exists() and not overwrite:
        raise ExportError(
            f"Expected a free path, but {path} exists; choose another or pass "
            "overwrite=True."
        )
    check_parent(path, ExportError)
    check_no_member(path, ExportError)


def read_model(model: str | Path | bytes) -> bytes:
    """Returns the bytes of a ``.tflite`` file, given them or its path.

    Raises:
      ExportError: If there is no file, or one that is too large or cannot be read.
    """
    if isinstance(model, bytes):
        return model
    if not isinstance(model, (str, Path)) or not Path(model).is_file():
        shown = model if isinstance(model, (str, Path)) else type(model).__name__
        raise ExportError(
            f"Expected the path of one .tflite file, got {shown}, where there is none."
        )
    content = read_at_most(Path(model), _MAX_BYTES, ExportError)
    if content[4:8] != b"TFL3":
        raise ExportError(
            f"Expected a .tflite file at {model}, got one of another kind; name a file "
            "that `export` wrote."
        )
    return content


def export_model(
    builder: ModelBuilder,
    policy: Policy,
    path: str | Path,
    *,
    profile: str = "int8",
    io: str = "float32",
    metadata: Mapping[str, Any] | None = None,
    samples: Arrays | None = None,
    reference: Reference | None = None,
) -> ExportedModel:
    """Builds, checks and writes the ``.tflite`` file of a policy.

    Args:
      builder: Of the packaged network.
      policy: The policy.
      path: Where to write.
      profile: How kernels are stored; see `matar_tf.tflite.profiles`.
      io: Type of inputs and outputs: ``float32``, ``int8`` or ``uint8``.
      metadata: JSON object to store in the file.
      samples: Samples to compare on; needed with `reference`.
      reference: Returns the outputs that the file must agree with.

    Raises:
      ExportError: If the runtime refuses the file, or the profile is exact and fewer
        than 98 % of the samples agree with the reference (`argmax_agreement`); nothing
        is written then.
    """
    content = builder.build(policy, metadata, profile=profile, io=io)
    runner = Runner(content, runtime=get_profile(profile).runtime)
    agreement = None
    if reference is not None and samples is not None:
        outputs = outputs_of(content)
        found, expected = (
            by_name(values, [one.name for one in outputs], "outputs to compare with")
            for values in (runner.predict(samples), reference(policy, samples))
        )
        agreement = least_agreement(
            outputs,
            {one.index: found[one.name] for one in outputs},
            {one.index: expected[one.name] for one in outputs},
        )
        if agreement < MIN_AGREEMENT and get_profile(profile).exact:
            raise ExportError(
                f"Expected the exported model to agree with the Keras network on at "
                f"least {MIN_AGREEMENT:.1%} of {num_rows(samples)} samples, got "
                f"{agreement:.1%} for {Path(path).name}; nothing was written. The "
                "artifact's network and parameters may be of different trainings."
            )
    write_atomically(Path(path), content)
    return ExportedModel(
        path=Path(path),
        num_bytes=len(content),
        agreement=agreement,
        notes=read_metadata(content).get("notes", {}),
    )
