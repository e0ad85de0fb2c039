"""The front door: an artifact in; searches, files, figures and reports out.

A few lines each over the wings of the house. None of it needs TensorFlow. Data are
``(x, y)``, a mapping of arrays, the path of an ``.npz`` file or `Data`; policies are
names (``w4a8``), paths of ``.json`` files, `Policy` or what a search found; targets are
names of the catalogue, paths of ``.toml`` files or `Target`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.data import DataLike, as_data
from matar_tf.given import (
    ModelLike,
    Network,
    PolicyLike,
    TargetLike,
    as_artifact,
    as_model,
    as_optional_data,
    as_policy,
    as_target,
    as_targets,
    checked_target,
    named_policies,
)
from matar_tf.onnx.formats import DEFAULT_FORMAT, check_format, onnx_writer
from matar_tf.pricing import estimate as _estimate
from matar_tf.pricing.model import Cost
from matar_tf.reporting.card_page import model_card as _card_of
from matar_tf.reporting.shown import ShownMatrix, ShownResult
from matar_tf.run.costs import cost_matrix
from matar_tf.run.export import with_file_sizes
from matar_tf.run.keywords import settings_from, takes_options
from matar_tf.run.plan import make_run
from matar_tf.run.report import RunReport, read_report
from matar_tf.run.retarget import Outcome
from matar_tf.run.retarget import retarget as _retarget
from matar_tf.run.searches import search_one
from matar_tf.targets import list_targets
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.c_sources import check_sources, write_sources
from matar_tf.tflite.evaluate import evaluate_model
from matar_tf.tflite.export import (
    ExportedModel,
    Reference,
    check_output,
    export_model,
)
from matar_tf.tflite.fitting_data import check_data, for_inputs
from matar_tf.tflite.inspect import ModelInfo, inspect_model
from matar_tf.tflite.odd_data import check_plausible
from matar_tf.tflite.profiles import DEFAULT_PROFILE, get_profile
from matar_tf.tflite.standard_metadata import STANDARD_KEY, check_standard

__all__ = [
    "cost",
    "estimate",
    "evaluate",
    "export",
    "inspect",
    "load_artifact",
    "model_card",
    "report",
    "retarget",
    "search",
]


def load_artifact(
    path: str | Path,
    *,
    expect_digest: str | None = None,
    trust: str | Path | None = None,
) -> Artifact:
    """Returns a packaged network.

    Args:
      path: A directory, or one ``.matar`` file.
      expect_digest: The SHA-256 that it must have, in hex: what `write_artifact`
        returned, and ``artifact.source.digest`` is. None for any.
      trust: PEM file of the public key, or of certificates, by which it must be
        signed; None for no matter by whom, or not at all. ``artifact.source.signed_by``
        and the files that are exported then name it.

    Raises:
      ArtifactError: If a part is missing, unknown, altered or malformed, the digest is
        another, or trust is asked for and it is not signed so.
    """
    return read_artifact(path, expect_digest=expect_digest, trust=trust)


@takes_options
def search(
    network: Network, target: TargetLike, data: DataLike | None = None, **options: Any
) -> ShownResult:
    """Searches the policies with the best trade-offs on a target; writes no files.

    Args:
      network: What `load_artifact` returned, or its path.
      target: The hardware.
      data: Samples and labels to measure accuracy on; None to predict it.
      **options: Of the search, each a keyword.

    Returns:
      The front and policies to compare with; printed as a table.

    Raises:
      MatarError: If something does not fit, or no policy meets the limits.
    """
    artifact = as_artifact(network)
    given = as_optional_data(artifact, data)
    settings = settings_from(artifact, given, options, "search")
    run = make_run(artifact, [as_target(target)], given, settings)
    result = with_file_sizes(run, search_one(run))
    return ShownResult.of(result, artifact.accuracy.get("float"))


@takes_options
def retarget(
    network: Network,
    targets: TargetLike | Sequence[TargetLike],
    data: DataLike | None,
    output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    reference: Reference | None = None,
    **options: Any,
) -> Outcome:
    """Searches policies for targets, exports them, writes tables and a page.

    The first Ctrl-C ends the search that it comes in with its front so far, and the
    run, as its end, when files and tables are written: no KeyboardInterrupt comes, the
    result's `interrupted` is True. The second Ctrl-C, or one while nothing is known
    yet, is a KeyboardInterrupt.

    Args:
      network: What `load_artifact` returned, or its path.
      targets: Hardware.
      data: Samples and labels to measure accuracy on; None to predict it.
      output: Folder to write; made if there is none.
      resume: Whether to go on with the run that is there.
      overwrite: Whether to replace the run that is there.
      reference: Outputs that exported files must agree with, or None.
      **options: Of the search, each a keyword.

    Returns:
      The results; printed as tables. `report` reads them from the folder again.

    Raises:
      MatarError: If something does not fit, or the folder holds anything else.
    """
    artifact = as_artifact(network)
    given = as_optional_data(artifact, data)
    settings = settings_from(artifact, given, options, "retarget")
    run = make_run(artifact, as_targets(targets), given, settings)
    outcome = _retarget(
        run, output, resume=resume, overwrite=overwrite, reference=reference
    )
    float_metrics = artifact.accuracy.get("float")
    results = tuple(ShownResult.of(one, float_metrics) for one in outcome.results)
    return replace(outcome, results=results)


# Each is a keyword by itself, as of the functions beside it.
def export(  # noqa: PLR0913
    network: Network,
    policy: PolicyLike,
    path: str | Path,
    *,
    format: str = DEFAULT_FORMAT,
    profile: str = DEFAULT_PROFILE,
    io: str = "float32",
    tflite_metadata: bool = False,
    target: TargetLike | None = None,
    data: DataLike | None = None,
    metrics: Iterable[str] | None = None,
    reference: Reference | None = None,
    allow_odd_data: bool = False,
    overwrite: bool = False,
) -> ExportedModel:
    """Writes the file of a policy; for microcontrollers C++ sources, too.

    Args:
      network: What `load_artifact` returned, or its path.
      policy: The policy.
      path: Where to write; ends in ``.tflite``, or ``.onnx`` by the format.
      format: ``tflite``; ``qonnx``, for compilers of FPGAs; ``onnx``, for onnxruntime.
      profile: How a ``.tflite`` file stores kernels; see `matar_tf.tflite.profiles`.
      io: Type of inputs and outputs of a ``.tflite`` file: ``float32``, or ``int8`` or
        ``uint8`` on the grids that it names.
      tflite_metadata: Whether a ``.tflite`` file has TFLite Metadata, too, with its
        labels in a zip archive at its end, for programs that read these; not in the
        profile ``tflm``.
      target: Hardware that must take the policy, and that the file will name.
      data: Samples and labels whose metrics the file will carry, or None.
      metrics: Which these are, measured where the file runs; as for `evaluate`.
      reference: Outputs that a ``.tflite`` file must agree with on `data`, or None.
      allow_odd_data: Whether to go on, with a warning, where samples or labels can
        hardly be meant so.
      overwrite: Whether to replace a file that is there.

    Raises:
      MatarError: If a file is there, or the policy does not fit network or target.
    """
    artifact = as_artifact(network)
    chosen = as_policy(artifact, policy)
    compares = reference is not None
    suffix = check_format(
        format,
        profile=profile,
        compares=compares,
        io=io,
        tflite_metadata=tflite_metadata,
    )
    check_output(path, overwrite=overwrite, suffix=suffix)
    write_onnx = None if format == DEFAULT_FORMAT else onnx_writer()
    runtime = get_profile(profile).runtime
    if runtime == "tflm":
        check_sources(path, overwrite=overwrite)
    builder = ModelBuilder(artifact)
    metadata: dict[str, Any] = {}
    if write_onnx is None:
        metadata |= builder.about(profile)
    if tflite_metadata:
        check_standard(profile)
        metadata[STANDARD_KEY] = artifact.name
    if target is not None:
        metadata["target"] = checked_target(artifact, chosen, target)
    samples = None
    if data is not None:
        given = for_inputs(as_data(data), artifact.template)
        samples = given.x_test
        check_data(artifact, given, metrics=metrics, allow_odd_data=allow_odd_data)
        check_plausible(artifact, given, allow_odd_data=allow_odd_data)
        content = builder.build(chosen, profile=profile, io=io)
        metadata["metrics"] = evaluate_model(
            content,
            given,
            metrics=metrics,
            runtime=runtime,
            allow_odd_data=allow_odd_data,
        )
        metadata["num_samples"] = given.num_samples
    if write_onnx is not None:
        return write_onnx(
            artifact, builder, chosen, path, form=format, metadata=metadata
        )
    exported = export_model(
        builder,
        chosen,
        path,
        profile=profile,
        io=io,
        metadata=metadata,
        samples=samples,
        reference=reference,
    )
    if runtime != "tflm":
        return exported
    content = builder.build(chosen, metadata, profile=profile, io=io)
    return replace(exported, sources=write_sources(content, exported.path))


def evaluate(
    model: ModelLike,
    data: DataLike,
    *,
    metrics: Iterable[str] | None = None,
    runtime: str = "litert",
    threads: int = 1,
    allow_odd_data: bool = False,
) -> dict[str, float]:
    """Returns the metrics of a ``.tflite`` file.

    Args:
      model: Path of the file, its bytes, or what `export` returned.
      data: Samples and labels.
      metrics: Of classes ``accuracy``, ``loss``, ``top_5_accuracy``, ``mean_iou``,
        ``auc``; of values ``mean_squared_error``, ``mean_absolute_error``,
        ``smooth_l1``, ``binary_accuracy``; of one output of several such a name after
        its own, ``boxes_mean_absolute_error``; or ``package.module:function``, which
        gets all outputs and all labels, by names if there are several. None for
        accuracy and loss; see `matar_tf.tflite.heads` for several outputs.
      runtime: ``litert``, ``tflite_runtime``, ``tensorflow`` or ``tflm``.
      threads: Threads of the interpreter.
      allow_odd_data: Whether to go on, with a warning, where samples can hardly be
        meant so: those of another range than the input's grid.

    Raises:
      MatarError: If the file cannot be run, or the data do not fit it.
    """
    return evaluate_model(
        as_model(model),
        as_data(data),
        metrics=metrics,
        runtime=runtime,
        num_threads=threads,
        allow_odd_data=allow_odd_data,
    )


def cost(
    network: Network,
    policies: PolicyLike | Sequence[PolicyLike] | Mapping[str, PolicyLike],
    targets: TargetLike | Sequence[TargetLike] | None = None,
) -> ShownMatrix:
    """Returns what policies cost on targets, and why one may not run.

    Args:
      network: What `load_artifact` returned, or its path.
      policies: One or more, or a mapping that names them.
      targets: Hardware, one or more; None for the whole catalogue.

    Returns:
      The figures by policy and target (`CostMatrix.entry`); printed as tables.

    Raises:
      MatarError: If a policy is not of the network, or a target cannot run it.
    """
    artifact = as_artifact(network)
    named = named_policies(artifact, policies)
    chosen = list_targets() if targets is None else targets
    return ShownMatrix.of(cost_matrix(artifact, named, as_targets(chosen)))


def estimate(network: Network, policy: PolicyLike, target: TargetLike) -> Cost:
    """Returns what a policy costs on a target, layer by layer, by its analytic model.

    Args:
      network: What `load_artifact` returned, or its path.
      policy: The policy.
      target: The hardware.

    Raises:
      MatarError: If the policy is not of the network, or the target cannot run it.
    """
    artifact = as_artifact(network)
    chosen = as_policy(artifact, policy)
    return _estimate(artifact.workload, chosen, as_target(target))


def inspect(model: ModelLike) -> ModelInfo:
    """Returns what is in a ``.tflite`` file: policy, storage, scales, bytes per layer.

    Args:
      model: Path of the file, its bytes, or what `export` returned.

    Raises:
      ExportError: If the file was not exported by matar_tf.
    """
    return inspect_model(as_model(model))


def model_card(network: Network) -> str:
    """Returns the card of an artifact in Markdown: what its maker says, its figures.

    Args:
      network: What `load_artifact` returned, or its path.

    Raises:
      ArtifactError: If it is none, or holds something else as a card.
    """
    return _card_of(as_artifact(network))


def report(run: str | Path) -> RunReport:
    """Returns the results that `retarget` has left in a folder; printed as tables.

    Raises:
      SearchError: If there are none, or a file is damaged.
    """
    return read_report(run)
