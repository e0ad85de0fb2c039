"""Prices policies of an artifact on targets: a table of policies by targets.

With ``--layers``, one line for each layer of each policy that a target allows, by the
target's analytic model. Needs no TensorFlow.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.common import check_flags_only, read_policy, reports_errors, run

if TYPE_CHECKING:
    from matar_tf.artifact import Artifact
    from matar_tf.policy import Policy
    from matar_tf.targets import Target

_ARTIFACT = flags.DEFINE_string("artifact", None, "Directory or .matar file.")
_POLICIES = flags.DEFINE_list(
    "policies", ["w8a8", "w4a4", "w2a2"], "Names such as w4a8, or paths of .json files."
)
_TARGETS = flags.DEFINE_list(
    "targets", None, "Names of the catalogue, or paths of .toml files; default: all."
)
_FORMAT = flags.DEFINE_enum("format", "md", ["md", "csv", "json"], "Form.")
_LAYERS = flags.DEFINE_bool("layers", False, "One line for each layer.")
flags.mark_flags_as_required(["artifact"])

_LAYER_FIGURES = (
    *("name", "kind", "unit", "weight_bits", "activation_bits", "macs", "bops"),
    *("cycles", "bound", "energy_pj", "weight_bytes"),
)


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Prints the table."""
    check_flags_only(argv)
    from matar_tf.artifact import read_artifact
    from matar_tf.errors import MatarError
    from matar_tf.io.json_reader import json_text
    from matar_tf.reporting import matrix_to_csv, matrix_to_json, matrix_to_markdown
    from matar_tf.run.costs import cost_matrix
    from matar_tf.targets import list_targets, load_target

    for flag in (_POLICIES, _TARGETS):
        if flag.value is not None and not flag.value:
            raise MatarError(
                f"Expected one or more names in --{flag.name}, got none; leave the "
                "flag out for its default."
            )
    artifact = read_artifact(_ARTIFACT.value)
    policies = {name: read_policy(name, artifact.space) for name in _POLICIES.value}
    targets = [load_target(name) for name in _TARGETS.value or list_targets()]
    if _LAYERS.value:
        _print_layers(_layer_rows(artifact, policies, targets))
        return 0
    matrix = cost_matrix(artifact, policies, targets)
    if _FORMAT.value == "json":
        print(json_text(matrix_to_json(matrix)), end="")
    else:
        to_text = matrix_to_csv if _FORMAT.value == "csv" else matrix_to_markdown
        print(to_text(matrix), end="")
    return 0


def _layer_rows(
    artifact: Artifact, policies: Mapping[str, Policy], targets: Sequence[Target]
) -> list[dict[str, Any]]:
    """Returns one row for each layer of each policy that a target allows."""
    from matar_tf.pricing import check_policy
    from matar_tf.pricing.model import CostModel

    rows: list[dict[str, Any]] = []
    for target in targets:
        model = CostModel(artifact.workload, target)
        for name, policy in policies.items():
            if check_policy(artifact.workload, policy, target):
                continue
            for layer in model.estimate(policy).layers:
                figures = {figure: getattr(layer, figure) for figure in _LAYER_FIGURES}
                figures["kind"] = layer.kind.value
                rows.append({"policy": name, "target": target.name, **figures})
    return rows


def _print_layers(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows in the form that is asked for; what is missing stays empty."""
    if _FORMAT.value == "json":
        from matar_tf.io.json_reader import json_text

        print(json_text(rows), end="")
        return
    header = ["policy", "target", *_LAYER_FIGURES]
    cells = [
        ["" if row[name] is None else row[name] for name in header] for row in rows
    ]
    if _FORMAT.value == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([header, *cells])
        return
    rule = ["---" for _ in header]
    for line in (header, rule, *cells):
        texts = (f"{one:,.1f}" if isinstance(one, float) else str(one) for one in line)
        print(f"| {' | '.join(texts)} |")


if __name__ == "__main__":
    run(main)
