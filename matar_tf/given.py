"""What users name networks, policies, targets and files by, as what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.data import Data, DataLike, as_data
from matar_tf.errors import ExportError, PolicyError
from matar_tf.policy import Policy
from matar_tf.pricing import check_policy
from matar_tf.results import Candidate
from matar_tf.targets import Target, load_target
from matar_tf.tflite.answers import answered, samples_alone
from matar_tf.tflite.export import ExportedModel, read_model

__all__ = [
    "ModelLike",
    "Network",
    "PolicyLike",
    "TargetLike",
    "as_artifact",
    "as_model",
    "as_optional_data",
    "as_policy",
    "as_target",
    "as_targets",
    "checked_target",
    "named_policies",
]

Network: TypeAlias = "Artifact | str | Path"
PolicyLike: TypeAlias = "Policy | Candidate | str | Path"
TargetLike: TypeAlias = "Target | str | Path"
ModelLike: TypeAlias = "ExportedModel | str | Path | bytes"


def as_optional_data(
    artifact: Artifact, data: DataLike | np.ndarray | None
) -> Data | None:
    """Returns samples and labels, if there are any; samples alone get a network's."""
    if data is None:
        return None
    alone = samples_alone(data)
    return (
        as_data(cast("DataLike", data)) if alone is None else answered(artifact, *alone)
    )


def as_artifact(network: Network) -> Artifact:
    """Returns a packaged network, read if its path is given."""
    return network if isinstance(network, Artifact) else read_artifact(network)


def as_policy(artifact: Artifact, policy: PolicyLike) -> Policy:
    """Returns one policy of a network.

    Raises:
      PolicyError: If it is none.
    """
    if isinstance(policy, Candidate):
        policy = policy.policy
    if not isinstance(policy, (Policy, str, Path)):
        raise PolicyError(
            "Expected one policy: a name such as 'w4a8', the path of a .json file, a "
            f"Policy, or one that a search found (result.front[0]), got "
            f"{type(policy).__name__}."
        )
    return artifact.space.policy(policy)


def named_policies(
    artifact: Artifact,
    policies: PolicyLike | Sequence[PolicyLike] | Mapping[str, PolicyLike],
) -> dict[str, Policy]:
    """Returns policies by the names that tables give them.

    Raises:
      PolicyError: If one is none, or two have one name.
    """
    if isinstance(policies, Mapping):
        return {name: as_policy(artifact, one) for name, one in policies.items()}
    if isinstance(policies, (Policy, Candidate, str, Path)):
        policies = [policies]
    named: dict[str, Policy] = {}
    for number, one in enumerate(policies):
        name = one.name if isinstance(one, Candidate) else str(one)
        if isinstance(one, Policy):
            name = f"policy {number}"
        if name in named:
            raise PolicyError(
                f"Expected policies of different names, got {name!r} twice; pass a "
                "mapping that names them."
            )
        named[name] = as_policy(artifact, one)
    return named


def as_model(model: ModelLike) -> bytes:
    """Returns the bytes of a file, however it is named."""
    return read_model(model.path if isinstance(model, ExportedModel) else model)


def as_target(target: TargetLike) -> Target:
    """Returns a target, loaded if its name or path is given."""
    return target if isinstance(target, Target) else load_target(target)


def as_targets(targets: TargetLike | Sequence[TargetLike]) -> list[Target]:
    """Returns one target or several."""
    if isinstance(targets, (Target, str, Path)):
        targets = [targets]
    return [as_target(one) for one in targets]


def checked_target(artifact: Artifact, policy: Policy, target: TargetLike) -> str:
    """Returns the name of a target that takes a policy.

    Raises:
      ExportError: If it does not.
    """
    chosen = as_target(target)
    problems = check_policy(artifact.workload, policy, chosen)
    if problems:
        raise ExportError(
            f"Expected a policy that {chosen.name} takes, but: {problems[0].message}"
        )
    return chosen.name
