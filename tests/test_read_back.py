"""A run's folder read back: its page is made anew, strangers' files are refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.paths import GOLDEN
from fixtures.programs import call, fails

from matar_tf.cost_matrix import CostMatrix, MatrixEntry
from matar_tf.errors import SearchError
from matar_tf.figures import CostKind
from matar_tf.reporting import matrix_from_json, matrix_to_json
from matar_tf.run.report import read_report

MATRIX = json.loads((GOLDEN / "run/matrix.json").read_text())
# What a page says: links to files, cells, sentences, facts.
SAID = re.compile(
    r'href="(?!#)([^"]+)"|<td[^>]*>([^<]*)</td>|<p>(.*)</p>|<dd>(.*)</dd>|<li>(.*)'
)
NUMBER = re.compile(r"[0-9.]+")


def texts(page: str) -> Counter[str]:
    return Counter("".join(groups) for groups in SAID.findall(page))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return shutil.copytree(GOLDEN / "run", tmp_path / "run")


def change(path: Path, **values: Any) -> None:
    document = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps(document))


class TestPage:
    def test_says_what_the_one_that_the_run_wrote_says(self, run: Path) -> None:
        """Links, sentences, facts and cells, which may have a unit that suits them."""
        report = replace(read_report(run), float_verified=True)  # as 0.1.0 took it
        old, new = texts((run / "report.html").read_text()), texts(report.page())
        missing, added = [*(old - new).elements()], [*(new - old).elements()]
        figures = [float(text) for text in added if NUMBER.fullmatch(text)]
        assert len(missing) == len(figures) > 0
        for text in missing:
            most = 0.5001 * 10.0 ** -len(text.partition(".")[2])
            assert any(
                abs(float(text) - one / size) <= most
                for one in figures
                for size in (1000.0, 1024.0)
            )

    def test_says_what_the_record_says_was_asked(self, run: Path) -> None:
        change(run / "run.json", network="my <net>", limits=["file_bytes <= 9.0"])
        page = read_report(run).page()
        assert "<h1>my &lt;net&gt;</h1>" in page
        assert "<dd>data.npz, 60 samples</dd>" in page
        assert "<dd>file_bytes &lt;= 9.0</dd>" in page

    @pytest.mark.parametrize("there", ["link", "folder", "pipe"])
    def test_does_not_depend_on_the_one_that_is_there(
        self, run: Path, there: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        expected, path = read_report(run).page(), run / "report.html"
        path.unlink()
        if there == "link":
            path.symlink_to("/etc/passwd")
        elif there == "folder":
            path.mkdir()
        else:
            os.mkfifo(path)
        assert call("report", run=str(run), format="html") == 0
        assert capsys.readouterr().out == expected

    def test_what_steers_a_terminal_is_escaped(self, run: Path) -> None:
        path = run / "mpic/result.json"
        provenance = json.loads(path.read_text())["provenance"]
        change(path, provenance={**provenance, "command": "a\x1b[2J<b>"})
        page = read_report(run).page()
        assert r"a\x1b[2J&lt;b&gt;" in page
        assert page.replace("\n", "").isprintable()

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"targets": ["mpic"]}, "got 12"),
            ({"policies": ["a\x1b"] * 6}, "printable characters"),
            ({"entries": [{}]}, "has no key"),
            ({"schema_version": 2}, "schema_version 1, got 2"),
        ],
    )
    def test_a_damaged_matrix_is_named(
        self, run: Path, values: Any, words: str
    ) -> None:
        change(run / "matrix.json", **values)
        with pytest.raises(SearchError, match=rf"matrix\.json is damaged: .*{words}"):
            read_report(run).page()

    def test_a_result_without_costs_is_named(self, run: Path) -> None:
        kept = [one for one in MATRIX["entries"] if one["target"] == "mpic"]
        change(run / "matrix.json", targets=["mpic"], entries=kept)
        with pytest.raises(SearchError, match=r"costs on ne16_gap9 in matrix\.json"):
            read_report(run).page()


class TestMatrix:
    def test_is_read_as_it_was_written(self) -> None:
        kind: CostKind = "latency table"
        priced = MatrixEntry(policy="p", target="t", kind=kind, figures={"a": 1})
        refused = MatrixEntry(
            policy="q", target="t", kind=kind, figures={}, violations=("wide",)
        )
        matrix = CostMatrix(
            policies=("p", "q"), targets=("t",), entries=(priced, refused)
        )
        assert matrix_from_json(matrix_to_json(matrix)) == matrix
        assert matrix_to_json(matrix_from_json(MATRIX)) == MATRIX

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("kind", "guessed", "Unknown kind 'guessed'"),
            ("figures", {"latency_ms": "1"}, "Expected a number for 'latency_ms'"),
            ("violations", [1], "Expected texts under 'violations'"),
            ("legal", False, "Expected legal to be True"),
            ("violations", ["too wide"], "either figures or violations"),
        ],
    )
    def test_an_entry_of_another_kind(self, key: str, value: Any, words: str) -> None:
        first, *others = MATRIX["entries"]
        document = {**MATRIX, "entries": [{**first, key: value}, *others]}
        with pytest.raises(SearchError, match=words):
            matrix_from_json(document)


class TestResult:
    def test_has_the_name_of_its_folder(self, run: Path) -> None:
        change(run / "mpic/result.json", target="ne16_gap9")
        words = "the result of 'mpic' in .*, got that of 'ne16_gap9'"
        with pytest.raises(SearchError, match=words):
            read_report(run)

    @pytest.mark.parametrize("name", ["mpic/result.json", "run.json"])
    @pytest.mark.parametrize(
        ("replace_it", "words"),
        [
            (os.mkfifo, "got a device or a pipe"),
            (Path.mkdir, "Is a directory"),
            (lambda path: path.symlink_to("/dev/zero"), "got a device or a pipe"),
        ],
    )
    def test_is_a_file(
        self,
        run: Path,
        name: str,
        replace_it: Callable[[Path], None],
        words: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (run / name).unlink()
        replace_it(run / name)
        assert words in fails(capsys, "report", run=str(run))
