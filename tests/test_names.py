"""Names that come from files: short and printable, and harmless where shown."""

from __future__ import annotations

import csv
import io
import pickle
from typing import Any

import pytest
from fixtures.paths import DATA

from matar_tf.artifact import read_artifact
from matar_tf.commands._program import call
from matar_tf.commands.report import COMMAND as REPORT
from matar_tf.errors import (
    ArtifactError,
    ExportError,
    MatarError,
    ModelError,
    PolicyError,
    SearchError,
    TargetError,
    printable,
    readable,
    shown,
)
from matar_tf.io.json_reader import JsonReader
from matar_tf.io.names import MAX_NAME_CHARS, is_name
from matar_tf.policy import Policy
from matar_tf.reporting.csv_table import csv_table
from matar_tf.reporting.markdown import markdown_row, markdown_text
from matar_tf.results import Candidate, Objective
from matar_tf.space import PolicySpace
from matar_tf.tflite._schema import parse_model, write_model
from matar_tf.tflite.inspect import inspect_model
from matar_tf.tflite.metadata import add_metadata
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload, Workload

STRANGE = ["a\x1b[31m", "a\nb", "a\rb", "\u202eevil", "\x00", "\ud800", "x" * 501]


class TestShown:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("name", "'name'"),
            ([1] * 10, "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"),
            ([1] * 11, "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, ...]"),
            ("x" * 98, f"'{'x' * 98}'"),
        ],
    )
    def test_the_beginning(self, value: object, text: str) -> None:
        assert shown(value) == text

    @pytest.mark.parametrize(
        "value", ["x" * 10**6, [["x" * 10**6]] * 10**6, {"k": [{}] * 10**6}]
    )
    def test_json_of_any_length_is_shown_short(self, value: Any) -> None:
        reader = JsonReader(ArtifactError)
        for read in (
            lambda: reader.object(value, "manifest", ["a"]),
            lambda: reader.field({"a": value}, "a", int),
            lambda: Workload.from_json(value),
        ):
            with pytest.raises(MatarError) as error:
                read()
            assert len(error.value.args[0]) < 2000


class TestReadable:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("as it stands: µ, 'é', \u4e2d.", "as it stands: µ, 'é', \u4e2d."),
            ("\x1b[31mred", r"\x1b[31mred"),
            ("a\tb\rc\x07", r"a\tb\rc\x07"),
            ("\u202eback", r"\u202eback"),
            ("\ud800", r"\ud800"),
            ("one\n  two", "one\n  two"),
            ("y" * 300, "y" * 300),
            # Two thirds of what stays are of the beginning.
            ("a" * 200 + "b" * 101, "a" * 198 + "..." + "b" * 99),
            ("a " * 500, "a " * 500),
            ("a " * 500 + "b", "a " * 332 + "a" + "..." + " a" * 165 + " b"),
        ],
    )
    def test_texts(self, text: str, shown: str) -> None:
        assert readable(text) == shown

    def test_lines(self) -> None:
        lines = list("x" * 40)
        assert readable("\n".join(lines)) == "\n".join(lines)
        more = "... and 2 more lines."
        assert readable("\n".join([*lines, "y", "y"])) == "\n".join([*lines, more])

    def test_a_line_keeps_no_end_of_line(self) -> None:
        assert printable("a\nb") == r"a\nb"

    def test_every_error_of_ours_is_shown_so(self) -> None:
        error = TargetError("key " + "x" * (1 << 20) + "\x1b[2J; mend it.")
        assert len(str(error)) < 320
        assert str(error).endswith("; mend it.")
        assert str(error).isprintable()
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        assert str(MatarError()) == ""


class TestNames:
    def test_both_sides_of_the_limit(self) -> None:
        assert is_name("")
        assert is_name("conv_1/é \u4e2d")
        assert is_name("x" * MAX_NAME_CHARS)
        for one in (*STRANGE, None, 3, b"a"):
            assert not is_name(one)

    @pytest.mark.parametrize("name", STRANGE)
    def test_names_are_checked_where_they_are_made(self, name: str) -> None:
        tensor = TensorWorkload(name=name, shape=(1,), activation=None)
        layer = LayerWorkload(name=name, kind=OpKind.ADD, inputs=("a",), output="b")
        tensors = {
            one: TensorWorkload(name=one, shape=(1,), activation=None) for one in "ab"
        }
        policy = Policy(weights={}, activations={})

        def network(*layers: LayerWorkload, **tensors: TensorWorkload) -> Workload:
            ends = tuple(tensors)
            return Workload(
                layers=layers, tensors=tensors, inputs=ends[:1], outputs=ends[-1:]
            )

        def candidate(**change: Any) -> Candidate:
            given = {"name": "a", "metrics": {}, "costs": {}, **change}
            return Candidate(policy=policy, **given)

        for error, make in (
            (PolicyError, lambda: Policy(weights={name: 8}, activations={})),
            (PolicyError, lambda: Policy(weights={}, activations={name: 8})),
            (PolicyError, lambda: PolicySpace(weights={name: (8,)}, activations={})),
            (ModelError, lambda: network(**{name: tensor})),
            (ModelError, lambda: network(layer, **tensors)),
            (SearchError, lambda: Objective(name=name)),
            (SearchError, lambda: candidate(name=name)),
            (SearchError, lambda: candidate(metrics={name: 1.0})),
            (SearchError, lambda: candidate(costs={name: None})),
        ):
            with pytest.raises(error, match=r"printable|name of a metric") as it:
                make()
            assert str(it.value).isprintable()

    @pytest.mark.parametrize("word", ["a\x1b[2J.matar", "\u202ea", "a\nb"])
    def test_a_command_line_that_steers_the_terminal(
        self, word: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call(REPORT, "matar report", [word]) == 1
        line = capsys.readouterr().err
        assert "Expected a command line that can be printed" in line
        assert line.removesuffix("\n").isprintable()


def test_names_of_tensors_are_escaped_where_they_are_printed() -> None:
    model = parse_model(read_artifact(DATA / "dense.matar").template)
    names = (b"\xff", b"\x1b[2J", b"a\nb", b"x" * 9999)
    for index, name in enumerate(names):
        model.subgraphs[0].tensors[index].name = name
    policy = {"schema_version": 1, "weights": {}, "activations": {}}
    notes = {"a\x1b": "b\n"}
    for added in ({}, {"profile": "\x1b[2J"}):
        add_metadata(model, {"policy": policy, "kernels": {}, **added})
        lines = repr(inspect_model(write_model(model))).splitlines()
        assert all(line.isprintable() and len(line) < 500 for line in lines)
    add_metadata(model, {"policy": policy, "kernels": {}, "notes": notes})
    with pytest.raises(ExportError, match="cannot be printed"):
        inspect_model(write_model(model))


def test_what_a_file_says_of_itself_is_cut_where_it_is_printed() -> None:
    model = parse_model(read_artifact(DATA / "dense.matar").template)
    document: Any = {
        "policy": {"schema_version": 1, "weights": {}, "activations": {}},
        "kernels": {"a": "e" * 500},
        "notes": {"b": "n" * 500},
        "profile": "P" * 100_000,
        "metrics": {"accuracy": "x y\n" * 100_000},
        "target": ["t " * 100_000] * 10,
    }
    add_metadata(model, document)
    lines = repr(inspect_model(write_model(model))).split("\n")
    assert max(map(len, lines)) <= 1000
    for key in ("kernels", "notes"):
        for value in ("e" * 501, "\x1b", 8, None):
            add_metadata(model, {**document, key: {"a": value}})
            with pytest.raises(ExportError, match=f"under '{key}' in the metadata"):
                inspect_model(write_model(model))


class TestCsv:
    @pytest.mark.parametrize(
        ("cell", "written"),
        [
            ("=1+1", "'=1+1"),
            ("+cmd", "'+cmd"),
            ("-cmd|' /C calc'!A0", "'-cmd|' /C calc'!A0"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("-", "'-"),
            ("-1", "-1"),
            ("+1.5e-3", "+1.5e-3"),
            ("-.5", "-.5"),
            (-1, "-1"),
            (-1.5, "-1.5"),
            (None, ""),
            ("w8a8", "w8a8"),
            ("a=b", "a=b"),
        ],
    )
    def test_formulas_are_text_and_numbers_stay(self, cell: Any, written: str) -> None:
        text = csv_table(["a", "=b"], [[cell, 1]])
        assert list(csv.reader(io.StringIO(text))) == [["a", "'=b"], [written, "1"]]


class TestMarkdown:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("a|b", r"a\|b"),
            ("a\\|b", r"a\\\|b"),
            ("<script>", r"\<script>"),
            ("</b>", r"\</b>"),
            ("3 < 4 <= 5", "3 < 4 <= 5"),
            ("`code`", r"\`code\`"),
            ("[x](http://y)", r"[x]\(http://y)"),
            ("latency [ms] (4)", "latency [ms] (4)"),
            ("a\nb", "a b"),
            ("\x1b[2J", r"\\x1b[2J"),  # the backslash is shown, too
        ],
    )
    def test_text_is_shown_as_it_stands(self, text: str, shown: str) -> None:
        assert markdown_text(text) == shown
        assert markdown_row([text, "1"]) == f"| {shown} | 1 |"
