"""Machines whose locale or terminal is not UTF-8."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits
from fixtures.paths import ROOT

from matar_tf.artifact import write_artifact

TARGETS = ("mpic", "cortex_m4_cmsis_nn")
ASCII: dict[str, dict[str, str]] = {
    "locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "terminal": {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"},
}


def program(name: str, *words: str, **environment: str) -> str:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, ROOT / f"tools/{name}.py", *words],
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode("ascii")


@pytest.mark.parametrize("what", ASCII)
def test_a_search_ends_and_its_files_are_in_utf_8(tmp_path: Path, what: str) -> None:
    """Energies are in µJ, and more than one target has some."""
    write_artifact(digits_artifact(), tmp_path / "net.matar")
    data, output = few_digits().head(60), tmp_path / "run"
    np.savez(tmp_path / "data.npz", x_test=data.x_test, y_test=data.y_test)
    printed = program(
        "search",
        f"--artifact={tmp_path / 'net.matar'}",
        f"--data={tmp_path / 'data.npz'}",
        f"--targets={','.join(TARGETS)}",
        f"--output={output}",
        *("--max_evaluations=4", "--compare=none"),
        **ASCII[what],
    )
    assert printed.count("?J") == len(TARGETS)
    for path in (*output.glob("*/front.md"), output / "matrix.md"):
        assert "[µJ]" in path.read_bytes().decode()
    # The page has the unit that suits each column: that of one target, at least.
    for form, mark, least in (("text", "?J", len(TARGETS)), ("html", "?J]", 1)):
        page = program("report", f"--run={output}", f"--format={form}", **ASCII[what])
        assert page.count(mark) >= least


def test_every_text_file_has_its_encoding_named() -> None:
    """Also those that hold ASCII on the machines of today."""
    sources = [*ROOT.glob("matar_tf/**/*.py"), *ROOT.glob("tools/*.py")]
    calls = [
        (path.name, node)
        for path in sources
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("read_text", "write_text")
    ]
    assert len(calls) > 4
    for name, node in calls:
        assert "encoding" in {one.arg for one in node.keywords}, (name, node.lineno)
