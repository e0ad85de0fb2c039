"""Compares one shared network with dedicated ones, on the integer kernels.

Prints an accuracy table: float on top, uniform policies of the shared network beside
networks trained for that policy alone, other files, and random policies. Needs no
TensorFlow, but for ``--reestimate``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from absl import flags

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given
from matar_tf.commands._common import open_artifact, read_data

if TYPE_CHECKING:
    from absl.flags import FlagValues

    from matar_tf.artifact import Artifact
    from matar_tf.data import Data
    from matar_tf.policy import Policy
    from matar_tf.space import PolicySpace

__all__ = ["COMMAND", "Row", "to_text"]

_FAMILIES: Final = {
    "8/4/2": (2, 4, 8),
    "2..8": (2, 3, 4, 5, 6, 7, 8),
    "4..8": (4, 5, 6, 7, 8),
}
_UNIFORM: Final = ("w8a8", "w6a6", "w4a4", "w3a3", "w2a2")


def _define(values: FlagValues) -> None:
    _flags.artifact(values, "The shared network's artifact")
    _flags.expect_digest(values)
    _flags.trust(values)
    flags.DEFINE_list(
        "dedicated",
        [],
        "Artifacts of networks trained for one policy each.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "files",
        [],
        "Files (.tflite) of other networks, such as those that "
        "tools/benchmarks/train_stock.py of the project's source writes.",
        flag_values=values,
    )
    _flags.data(values, otherwise="; default digits, of a network that was made on it")
    _flags.num_samples(values)
    _flags.allow_odd_data(values)
    flags.DEFINE_integer(
        "num_random",
        100,
        "Policies of each random family; 0 for none.",
        lower_bound=0,
        flag_values=values,
    )
    _flags.seed(values, "the random policies")
    _flags.jobs(values)
    flags.DEFINE_integer(
        "reestimate",
        0,
        "Add a column: the shared network after its batch norms were estimated again, "
        "for that policy alone, on the first so many samples without their labels.",
        lower_bound=0,
        flag_values=values,
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: accuracies in percent, None where nothing is known."""

    name: str
    shared: float | None = None
    dedicated: float | None = None
    reestimated: float | None = None
    worst: float | None = None


def _run(given: Given) -> int:
    """Measures and prints the table."""
    from matar_tf.tflite.export import read_model
    from matar_tf.tflite.fitting_data import check_data

    artifact = open_artifact(given.artifact, given.expect_digest, given.trust)
    source = given.data or _own_data(artifact)
    data = read_data(given, artifact, ["accuracy"], source)
    dedicated = [(path, open_artifact(path)) for path in given.dedicated]
    for _, one in dedicated:
        check_data(one, data, metrics=["accuracy"], allow_odd_data=given.allow_odd_data)
    files = [(Path(path).stem, read_model(path)) for path in given.files]
    rows = [
        *_uniform_rows(artifact, dedicated, data, given),
        *_file_rows(files, data),
        *_random_rows(artifact, data, given),
    ]
    known = artifact.accuracy.get("float", {}).get("accuracy")
    if artifact.provenance.get("data_digest") != data.digest():
        print("Not the samples that the artifact was packaged with: no float figure.")
        known = None
    rows.insert(0, Row(name="float", shared=None if known is None else 100 * known))
    print(f"{data.num_samples} samples of {data.name}; accuracy in %, LiteRT kernels\n")
    print(to_text(rows))
    return 0


def _own_data(artifact: Artifact) -> str:
    """Returns the name of the data that a network was made on, if they are at hand.

    Raises:
      DataError: If they are not.
    """
    from matar_tf.data import DIGITS
    from matar_tf.errors import DataError

    made_on = artifact.provenance.get("data")
    if made_on != DIGITS:
        known = "" if made_on is None else f", which was made on {str(made_on)!r}"
        raise DataError(
            f"Expected --data for {artifact.name!r}{known}, got none; name samples and "
            "labels of its task."
        )
    return DIGITS


def to_text(rows: Sequence[Row]) -> str:
    """Returns the table: gaps are shared minus dedicated, below float for families."""
    top = rows[0].shared
    lines = [
        f"{'policy':24s} {'shared':>7s} {'dedicated':>9s} {'gap':>6s} "
        f"{'re-est.':>7s} {'worst':>7s} {'to float':>8s}"
    ]
    for row in rows:
        gap = _minus(row.shared, row.dedicated)
        cells = (
            (row.shared, 7),
            (row.dedicated, 9),
            (gap, 6),
            (row.reestimated, 7),
            (row.worst, 7),
            (_minus(row.shared, top), 8),
        )
        shown = " ".join(
            f"{'-' if value is None else format(value, '.2f'):>{width}s}"
            for value, width in cells
        )
        lines.append(f"{row.name:24s} {shown}")
    return "\n".join(lines)


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _named_policies(space: PolicySpace) -> dict[str, Policy]:
    """Returns the policies with a row of their own; of one policy, that one."""
    if space.num_policies == 1:
        return {
            "".join(space.uniform_names(mixed=True)) or "its one policy": space.widest()
        }
    names = space.uniform_names()
    return {name: space.named(name) for name in _UNIFORM if name in names}


def _uniform_rows(
    artifact: Artifact,
    dedicated: Sequence[tuple[str, Artifact]],
    data: Data,
    given: Given,
) -> list[Row]:
    from matar_tf.errors import PolicyError

    policies = _named_policies(artifact.space)
    alone: dict[Policy, float] = {}
    for text, one in dedicated:
        if one.space.num_policies != 1:
            raise PolicyError(
                f"Expected dedicated artifacts of one policy each, but {text} has "
                f"{one.space.size_text()}; train it with `matar train --policy`."
            )
        policy, path = one.space.widest(), Path(text)
        artifact.space.validate(policy)
        if policy in alone:
            raise PolicyError(
                f"Expected one dedicated artifact for each policy, got {path} for the "
                "policy of another; compare them one after the other."
            )
        alone[policy] = _accuracies(one, [policy], data, given)[0]
        if policy not in policies.values():
            name = f"mixed: {path.stem}"
            policies[f"mixed: {path}" if name in policies else name] = policy
    shared = _accuracies(artifact, list(policies.values()), data, given)
    again = [
        _reestimated(artifact, policy, data, given) if given.reestimate else None
        for policy in policies.values()
    ]
    return [
        Row(
            name=name,
            shared=value,
            dedicated=alone.get(policy),
            reestimated=other,
        )
        for (name, policy), value, other in zip(
            policies.items(), shared, again, strict=True
        )
    ]


def _file_rows(files: Sequence[tuple[str, bytes]], data: Data) -> list[Row]:
    from matar_tf.tflite.evaluate import evaluate_model

    rows: list[Row] = []
    for name, content in files:
        found = evaluate_model(
            content, data, metrics=["accuracy"], allow_odd_data=True
        )  # checked beside the artifact
        rows.append(Row(name=f"file: {name}", dedicated=100.0 * found["accuracy"]))
    return rows


def _random_rows(artifact: Artifact, data: Data, given: Given) -> list[Row]:
    from matar_tf.samplers import IndependentSampler, draw_policies

    rows: list[Row] = []
    has_choice = artifact.space.num_policies > 1
    for name, bits in _FAMILIES.items() if given.num_random and has_choice else ():
        policies = draw_policies(
            artifact.space,
            IndependentSampler(bits=bits),
            given.num_random,
            given.seed,
        )
        found = _accuracies(artifact, policies, data, given)
        rows.append(
            Row(
                name=f"{len(policies)} random {name}",
                shared=sum(found) / len(found),
                worst=min(found),
            )
        )
    return rows


def _accuracies(
    artifact: Artifact, policies: Sequence[Policy], data: Data, given: Given
) -> list[float]:
    from tqdm import tqdm

    from matar_tf.tflite.evaluate import ParallelEvaluator, evaluator_without_notes

    make = functools.partial(
        evaluator_without_notes,
        artifact,
        data.x_test,
        data.y_test,
        metrics=("accuracy",),
    )
    num_jobs = min(given.jobs, len(policies))
    with ParallelEvaluator(make, num_jobs) as evaluate_many:
        measured = tqdm(evaluate_many(policies), total=len(policies), unit="policy")
        return [100.0 * metrics["accuracy"] for _, metrics in measured]


def _reestimated(artifact: Artifact, policy: Policy, data: Data, given: Given) -> float:
    from matar_tf.keras import load_network, reestimate_batch_norm
    from matar_tf.keras.packaging.package import extract_parameters
    from matar_tf.named_arrays import num_rows, rows

    network = load_network(artifact)
    samples = rows(data.x_test, slice(given.reestimate))
    reestimate_batch_norm(
        network,
        samples,
        policies=[policy],
        batch_size=num_rows(samples),
        method="statistics",
    )
    changed = replace(artifact, parameters=extract_parameters(network))
    return _accuracies(changed, [policy], data, given)[0]


COMMAND: Final = Command(
    text=__doc__,
    define=_define,
    run=_run,
    subject="artifact",
    required=("artifact",),
)
