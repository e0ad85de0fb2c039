"""Prints the tables, the page or a plot of a search run. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from absl import flags

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given
from matar_tf.commands._common import check_names

if TYPE_CHECKING:
    from absl.flags import FlagValues

    from matar_tf.run.report import RunReport

__all__ = ["COMMAND"]


def _define(values: FlagValues) -> None:
    flags.DEFINE_string(
        "run", None, "Output folder of `matar search`.", flag_values=values
    )
    _flags.form(
        values,
        ["text", "md", "csv", "json", "html", "svg"],
        "Form: a table for each target (text, md; of several targets as json an array, "
        "as csv one table whose first column is the target), the page of the run "
        "(html), or the plot of a front (svg)",
    )
    _flags.targets(values, "Report on these targets only.")


def _run(given: Given) -> int:
    """Prints the tables of a run, or its page, or a plot."""
    from matar_tf.run.report import read_report

    check_names(given, "targets")
    report = read_report(given.run)
    if given.targets is not None:
        results = tuple(report[target] for target in given.targets)
        report = replace(report, results=results, failures={})
    print(_text(report, given.format, given.targets), end="")
    return 0


def _text(report: RunReport, form: str, asked: Sequence[str] | None) -> str:
    from matar_tf.errors import SearchError
    from matar_tf.io.json_reader import json_text
    from matar_tf.reporting import front_svg

    if form == "html" and asked is not None:
        raise SearchError(
            "Expected no --targets beside --format=html, whose page is that of the "
            f"whole run, got {','.join(asked)}."
        )
    if form == "svg":
        if len(report.results) > 1:
            names = ", ".join(one.target for one in report.results)
            raise SearchError(
                f"Expected one target in --targets beside --format=svg, of {names}."
            )
        result = next(iter(report.results))
        return front_svg(result, result.float_metrics)
    if form == "json":
        return json_text(report.to_json())
    return {
        "text": report.to_text,
        "md": report.to_markdown,
        "csv": report.to_csv,
        "html": report.page,
    }[form]()


COMMAND: Final = Command(
    text=__doc__, define=_define, run=_run, subject="run", required=("run",)
)
