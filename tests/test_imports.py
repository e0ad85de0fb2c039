"""Tests that need TensorFlow have a folder of their own, and nothing else lies there.

So the rest runs where TensorFlow is not installed, and does not wait for it.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.paths import ROOT

TESTS = ROOT / "tests"
NAMES = ("tensorflow", "tf_keras", "tensorflow_model_optimization", "matar_tf.keras")
# Code that a test hands to another process.
_IN_TEXT = re.compile(
    rf"^\s*(?:import|from)\s+(?:{'|'.join(map(re.escape, NAMES))})\b", re.MULTILINE
)
BLOCKED = f"""
import sys
for name in {NAMES[:3]!r}:
    sys.modules[name] = None
import pytest
sys.exit(pytest.main(["-q", "--collect-only", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def imported(tree: ast.AST, *, everywhere: bool) -> Iterator[str]:
    """Yields what a module imports: at its top, or in its functions as well."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{one.name}" for one in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        elif everywhere or not isinstance(node, ast.FunctionDef):
            yield from imported(node, everywhere=everywhere)


def text_needs_tensorflow(text: str, *, of_tests: bool) -> bool:
    """Whether code imports TensorFlow, or a helper or program that does.

    Programs may import it in their functions: they do when they are asked to train.
    """
    tree = ast.parse(text)
    for name in imported(tree, everywhere=of_tests):
        if any(name == one or name.startswith(f"{one}.") for one in NAMES):
            return True
        place = Path(*name.split(".")).with_suffix(".py")
        if name.partition(".")[0] in ("fixtures", "golden", "recipes", "tools") and any(
            needs_tensorflow(folder / place) for folder in (TESTS, ROOT)
        ):
            return True
    return of_tests and any(
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _IN_TEXT.search(node.value)
        for node in ast.walk(tree)
    )


@functools.cache
def needs_tensorflow(path: Path) -> bool:
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8")
    return text_needs_tensorflow(text, of_tests=TESTS in path.parents)


FILES = sorted({*TESTS.glob("**/test_*.py")} - {Path(__file__)})  # which has examples


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_who_needs_tensorflow_lies_where_it_is_allowed(path: Path) -> None:
    apart = path.parent.name == "with_tensorflow"
    assert needs_tensorflow(path) == apart, "move it, or split it"


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("import numpy as np", False),
        ("import tensorflow_datasets", False),
        ("import tensorflow as tf", True),
        ("from matar_tf import keras", True),
        ("from matar_tf.keras._compat import tf", True),
        ("def test(): from tf_keras import layers", True),
        ("from fixtures.digits import few_digits", False),
        ("from fixtures.digits_training import build_net", True),
        ("from fixtures import nets", True),
        ("CODE = '''\nimport tensorflow as tf\n'''", True),
        ("CODE = 'tensorflow'", False),
    ],
)
def test_the_rule_itself(text: str, needed: bool) -> None:
    assert text_needs_tensorflow(text, of_tests=True) == needed


def test_what_a_program_imports_when_it_is_asked_to_train_is_its_own_affair() -> None:
    text = "def main(): from matar_tf.keras import package"
    assert text_needs_tensorflow(text, of_tests=True)
    assert not text_needs_tensorflow(text, of_tests=False)


def test_the_others_are_collected_without_tensorflow() -> None:
    words = ["tests", "--ignore=tests/with_tensorflow"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert int(re.findall(r"(\d+) tests collected", done.stdout)[0]) > 1000
