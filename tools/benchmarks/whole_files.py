"""Whether files that stand under their final names are whole."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from matar_tf.artifact import read_artifact
from matar_tf.errors import MatarError
from matar_tf.evolution import EvaluationStore
from matar_tf.tflite.runtime import Runner

__all__ = ["broken_files"]


def broken_files(folder: Path) -> list[str]:
    """Returns what is wrong with files that stand under their final names.

    Temporary names begin with a dot.
    """
    broken: list[str] = []
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inner.parts)
        check = None if hidden or path.is_dir() else _CHECKS.get(path.suffix)
        if check is None:
            continue
        try:
            check(path)
        except (MatarError, OSError, ValueError) as error:
            broken.append(f"{inner}: {type(error).__name__}: {error}")
    return broken


def _check_json(path: Path) -> None:
    json.loads(path.read_bytes())
    if path.name == "manifest.json":
        read_artifact(path.parent)


def _check_text(path: Path) -> None:
    end = "</html>" if path.suffix == ".html" else "\n"
    if not path.read_text(encoding="utf-8").endswith(end):
        raise ValueError("cut off")


def _check_store(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:  # opening one changes it
        for one in path.parent.glob(f"{path.name}*"):
            shutil.copy(one, folder)
        EvaluationStore(Path(folder) / path.name).close()


_CHECKS: Final[Mapping[str, Callable[[Path], object]]] = {
    ".json": _check_json,
    ".csv": _check_text,
    ".md": _check_text,
    ".html": _check_text,
    ".matar": read_artifact,
    ".sqlite": _check_store,
    ".tflite": lambda path: Runner(path.read_bytes()),
}
