"""Prices policies of an artifact on targets: a table of policies by targets.

With ``--layers``, one line for each layer of each policy that a target allows, by the
target's analytic model. Needs no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from absl import flags

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given
from matar_tf.commands._common import check_names, open_artifact

if TYPE_CHECKING:
    from absl.flags import FlagValues

    from matar_tf.artifact import Artifact
    from matar_tf.policy import Policy
    from matar_tf.targets import Target

__all__ = ["COMMAND"]

_LAYER_FIGURES: Final = (
    *("name", "kind", "unit", "weight_bits", "activation_bits", "macs", "bops"),
    *("cycles", "bound", "energy_pj", "weight_bytes"),
)


def _define(values: FlagValues) -> None:
    _flags.artifact(values)
    _flags.expect_digest(values)
    _flags.trust(values)
    _flags.policies(values, ["w8a8", "w4a4", "w2a2"], "What is priced")
    _flags.targets(
        values, "Names of the catalogue, or paths of .toml files; default: all."
    )
    _flags.form(values, ["text", "md", "csv", "json"])
    flags.DEFINE_bool("layers", False, "One line for each layer.", flag_values=values)


def _run(given: Given) -> int:
    """Prints the table."""
    from matar_tf.io.json_reader import json_text
    from matar_tf.reporting import (
        matrix_to_csv,
        matrix_to_json,
        matrix_to_markdown,
        matrix_to_text,
    )
    from matar_tf.run.costs import cost_matrix
    from matar_tf.targets import list_targets, load_target

    check_names(given, "policies", "targets")
    artifact = open_artifact(given.artifact, given.expect_digest, given.trust)
    policies = {name: artifact.space.policy(name) for name in given.policies}
    targets = [load_target(name) for name in given.targets or list_targets()]
    if given.layers:
        _print_layers(_layer_rows(artifact, policies, targets), given.format)
        return 0
    matrix = cost_matrix(artifact, policies, targets)
    if given.format == "json":
        print(json_text(matrix_to_json(matrix)), end="")
        return 0
    forms = {
        "text": matrix_to_text,
        "md": matrix_to_markdown,
        "csv": matrix_to_csv,
    }
    print(forms[given.format](matrix), end="")
    return 0


def _layer_rows(
    artifact: Artifact, policies: Mapping[str, Policy], targets: Sequence[Target]
) -> list[dict[str, Any]]:
    """Returns one row for each layer of each policy that a target allows."""
    from matar_tf.pricing import check_policy
    from matar_tf.pricing.model import CostModel
    from matar_tf.run.costs import why_unbuilt
    from matar_tf.tflite.build import ModelBuilder

    builder, rows = ModelBuilder(artifact), list[dict[str, Any]]()
    for target in targets:
        for name, policy in policies.items():
            is_broken = bool(check_policy(artifact.workload, policy, target))
            if is_broken or why_unbuilt(builder, policy):
                continue
            model = CostModel(artifact.workload, target)
            for layer in model.estimate(policy).layers:
                figures = {figure: getattr(layer, figure) for figure in _LAYER_FIGURES}
                figures["kind"] = layer.kind.value
                rows.append({"policy": name, "target": target.name, **figures})
    return rows


def _print_layers(rows: Sequence[Mapping[str, Any]], form: str) -> None:
    """Prints rows in the form that is asked for; what is missing stays empty."""
    if form == "json":
        from matar_tf.io.json_reader import json_text

        print(json_text(rows), end="")
        return
    from matar_tf.reporting.csv_table import csv_table
    from matar_tf.reporting.markdown import markdown_row

    header = ["policy", "target", *_LAYER_FIGURES]
    cells = [
        ["" if row[name] is None else row[name] for name in header] for row in rows
    ]
    if form == "csv":
        print(csv_table(header, cells), end="")
        return
    rule = ["---" for _ in header]
    for line in (header, rule, *cells):
        texts = (f"{one:,.1f}" if isinstance(one, float) else str(one) for one in line)
        print(markdown_row(texts))


COMMAND: Final = Command(
    text=__doc__,
    define=_define,
    run=_run,
    subject="artifact",
    required=("artifact",),
)
