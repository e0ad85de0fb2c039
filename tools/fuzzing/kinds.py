"""All kinds of files, and the inputs of a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from tools.fuzzing import archives, artifacts, hardware, runs, samples, tflite_files
from tools.fuzzing.inputs import Input, Kind

__all__ = ["KINDS", "kind_of", "make_input"]

KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            tflite_files.TFLITE,
            archives.ARCHIVE,
            artifacts.FOLDER,
            artifacts.SIGNED,
            hardware.TARGET,
            hardware.TABLE,
            hardware.POLICY,
            runs.RUN,
            runs.STORE,
            samples.DATA,
        )
    }
)


def kind_of(names: Sequence[str], seed: int, index: int) -> Kind:
    """Returns the kind of the input of a number, among some."""
    return _kind(random.Random(f"{seed}/{index}"), names)


def make_input(names: Sequence[str], seed: int, index: int) -> Input:
    """Returns the input of a number.

    Args:
      names: Of the kinds among which it is.
      seed: With the number and the names all that it depends on.
      index: The number.
    """
    rng = random.Random(f"{seed}/{index}")
    return _kind(rng, names).make(rng)


def _kind(rng: random.Random, names: Sequence[str]) -> Kind:
    kinds = [KINDS[name] for name in names]
    return rng.choices(kinds, [kind.share for kind in kinds])[0]
