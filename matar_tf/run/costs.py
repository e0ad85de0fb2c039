"""Costs of an artifact's policies on targets: by the best source that is at hand.

A target with a backend is priced by that tool where it is installed, by the analytic
model of its file otherwise, and where layers stay in float: a compiler does not say
what they take on the processor. Which of the two it was stands beside every figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from matar_tf.artifact import Artifact
from matar_tf.cost_matrix import CostMatrix, MatrixEntry
from matar_tf.errors import ExportError, TargetError
from matar_tf.figures import SCALES, UNCHECKED, CostKind
from matar_tf.policy import Policy
from matar_tf.pricing import PolicyChecker
from matar_tf.pricing.demand import float_refusal
from matar_tf.pricing.model import CostModel
from matar_tf.targets import TableCompute, Target, VelaBackend
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import num_quantized_ends
from matar_tf.tflite.vela import compile_with_vela, has_vela, vela_version

__all__ = ["PolicyCosts", "check_names", "cost_matrix", "why_unbuilt"]


class PolicyCosts:
    """Costs of policies by name.

    Those of `matar_tf.figures.COST_NAMES`, and sizes that are asked for.

    Args:
      artifact: The packaged network.
      target: The hardware.
      builder: Makes the files that a compiler is given; one is made if None.
      sizes: What else to say of a policy, by name: ``file_bytes`` of the file that it
        is exported to, ``arena_bytes`` that this takes on a microcontroller.

    Attributes:
      kind: Where latency, cycles and bytes come from.
      versions: What priced them, by name: a tool's version, a latency table's file.
    """

    def __init__(
        self,
        artifact: Artifact,
        target: Target,
        builder: ModelBuilder | None = None,
        *,
        sizes: Mapping[str, Callable[[Policy], int]] = MappingProxyType({}),
    ) -> None:
        self._known: dict[Policy, dict[str, float | None]] = {}
        self._sizes = sizes
        self._model = CostModel(artifact.workload, target)
        self._backend: VelaBackend | None = None
        is_integer = not self._model.has_floats
        if isinstance(target.backend, VelaBackend) and has_vela() and is_integer:
            self._backend = target.backend
            self._builder = builder or ModelBuilder(artifact)
        kind = _modelled(target)
        versions: dict[str, str] = {}
        if self._backend is not None:
            kind, versions = "compiler estimate", {"ethos-u-vela": vela_version()}
        elif isinstance(target.compute, TableCompute):
            kind, versions = "latency table", {"latency table": target.compute.file}
        elif kind != "modelled":
            versions = {UNCHECKED: target.validation[0].against}
        wanted = None if target.network is None else target.network.scales
        if wanted is not None and artifact.space.scale != wanted:
            versions[SCALES] = (
                f"Accuracies are those of free scales: {target.name} has scales of "
                "powers of two alone, and nobody measured what rounding costs; "
                "quantize_model has scale='power_of_two'."
            )
        self.kind: Final[CostKind] = kind
        self.versions: Final[Mapping[str, str]] = versions

    def __call__(self, policy: Policy) -> dict[str, float | None]:
        """Returns the costs of one policy.

        Raises:
          TargetError: If the compiler leaves operators to a processor that nobody
            prices, or see `CostModel.totals`.
          ExportError: If it does not compile the file.
        """
        if policy not in self._known:  # generations meet the same ones again
            self._known[policy] = self._priced(policy)
        return dict(self._known[policy])

    def _priced(self, policy: Policy) -> dict[str, float | None]:
        costs: dict[str, float | None] = {
            **self._model.totals(policy),
            "macs": self._model.workload.macs,
            "mean_weight_bits": self._model.mean_weight_bits(policy),
            "mean_activation_bits": self._model.mean_activation_bits(policy),
        }
        costs |= {name: size(policy) for name, size in self._sizes.items()}
        if self._backend is None:
            return costs
        content = self._builder.build(policy)
        estimate = compile_with_vela(content, self._backend)
        # Quantizing inputs and dequantizing outputs is the host's.
        num_ends = num_quantized_ends(content)
        if estimate.num_cpu_ops > num_ends:
            raise TargetError(
                f"Expected Vela to put all but {num_ends} operators on the NPU, "
                f"got {estimate.num_cpu_ops} on the CPU, whose time it does not say; "
                "change the network, or remove [backend] from the target to model it."
            )
        return {
            **costs,
            "latency_ms": estimate.latency_ms,
            "cycles": estimate.cycles,
            "energy_pj": None,
            "weight_bytes": estimate.weight_bytes,
            "peak_activation_bytes": estimate.sram_bytes,
        }


def cost_matrix(
    artifact: Artifact,
    policies: Mapping[str, Policy],
    targets: Sequence[Target],
    builder: ModelBuilder | None = None,
) -> CostMatrix:
    """Returns the costs of each policy on each target, with what is not allowed.

    A policy that a target has no price for is not allowed, either; nor is any on a
    target that does not run a kind of layer, or has no processor for layers that stay
    in float, nor one of which there is no file.

    Args:
      artifact: The packaged network.
      policies: Policies by name.
      targets: Hardware.
      builder: Makes the files that a compiler is given; one is made if None.

    Raises:
      PolicyError: If a policy is not of the artifact's network.
      SearchError: If there are no policies or no targets.
      TargetError: If two targets have one name.
    """
    check_names(targets)
    builder = builder or ModelBuilder(artifact)
    entries: list[MatrixEntry] = []
    unbuilt = {name: why_unbuilt(builder, one) for name, one in policies.items()}
    for target in targets:
        refusal = float_refusal(artifact.workload, target)
        costs: PolicyCosts | None = None
        try:
            costs = None if refusal else PolicyCosts(artifact, target, builder)
        except TargetError as error:  # of a kind that it does not run
            refusal = str(error)
        check = PolicyChecker(artifact.workload, target)
        for name, policy in policies.items():
            reason = refusal or unbuilt[name]
            reasons = (
                (reason,) if reason else tuple(one.message for one in check(policy))
            )
            figures: dict[str, float | None] = {}
            if costs is not None and not reasons:
                try:
                    figures = costs(policy)
                except TargetError as error:
                    reasons = (str(error),)
            entries.append(
                MatrixEntry(
                    policy=name,
                    target=target.name,
                    kind=_modelled(target) if costs is None else costs.kind,
                    figures=figures,
                    violations=reasons,
                )
            )
    return CostMatrix(
        policies=tuple(policies),
        targets=tuple(target.name for target in targets),
        entries=tuple(entries),
        float_layers=artifact.float_layers,
    )


def _modelled(target: Target) -> CostKind:
    """Returns what a target's analytic model is: compared with something, or not."""
    is_unchecked = all(one.kind == "unchecked" for one in target.validation)
    return "modelled, not validated" if is_unchecked else "modelled"


def why_unbuilt(builder: ModelBuilder, policy: Policy) -> str:
    """Returns why there is no file of a policy: no kernels of 16 bits; "" if there is.

    Whether there are, the steps decide, too: so one is built of such a policy.
    """
    try:
        if policy.is_wide:
            builder.build(policy)
    except ExportError as error:
        return str(error)
    return ""


def check_names(targets: Sequence[Target]) -> None:
    """Checks that results can be told apart by the names of their targets.

    Raises:
      TargetError: If two targets have one name.
    """
    names = [target.name for target in targets]
    for name in names:
        if names.count(name) > 1:
            raise TargetError(
                f"Expected targets of distinct names, got {name!r} twice; name it "
                "once, or change the key 'name' in one of the files."
            )
