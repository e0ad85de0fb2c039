"""Prices policies of an artifact on targets: a table of policies by targets.

With ``--layers``, one line for each layer of each policy that a target allows, by the
target's analytic model. Needs no TensorFlow.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.common import check_flags_only, reports_errors, run

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
_LAYERS = flags.DEFINE_bool("layers", False, "One line for each layer, as CSV.")
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
    from matar_tf.backends import cost_matrix
    from matar_tf.report import matrix_to_csv, matrix_to_json, matrix_to_markdown
    from matar_tf.targets import list_targets, load_target

    artifact = read_artifact(_ARTIFACT.value)
    policies = {name: _read_policy(artifact, name) for name in _POLICIES.value}
    targets = [load_target(name) for name in _TARGETS.value or list_targets()]
    if _LAYERS.value:
        print(_layer_table(artifact, policies, targets), end="")
        return 0
    matrix = cost_matrix(artifact, policies, targets)
    if _FORMAT.value == "json":
        print(json.dumps(matrix_to_json(matrix), indent=1))
    else:
        to_text = matrix_to_csv if _FORMAT.value == "csv" else matrix_to_markdown
        print(to_text(matrix), end="")
    return 0


def _read_policy(artifact: Artifact, name: str) -> Policy:
    from matar_tf.errors import PolicyError
    from matar_tf.policy import Policy

    if not name.endswith(".json"):
        return artifact.space.named(name)
    try:
        return Policy.from_json(json.loads(Path(name).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"Expected a policy as JSON at {name!r}, got: {error}."
        ) from error


def _layer_table(
    artifact: Artifact, policies: Mapping[str, Policy], targets: Sequence[Target]
) -> str:
    from matar_tf.cost import CostModel
    from matar_tf.targets import check_policy

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["policy", "target", *_LAYER_FIGURES])
    for target in targets:
        model = CostModel(artifact.workload, target)
        for name, policy in policies.items():
            if check_policy(artifact.workload, policy, target):
                continue
            for layer in model.estimate(policy).layers:
                cells = [getattr(layer, figure) for figure in _LAYER_FIGURES]
                cells[1] = layer.kind.value
                writer.writerow(
                    [name, target.name, *("" if one is None else one for one in cells)]
                )
    return buffer.getvalue()


if __name__ == "__main__":
    run(main)
