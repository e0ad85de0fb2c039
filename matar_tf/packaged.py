"""A packaged network: what an artifact holds, and the digests of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from matar_tf.errors import ArtifactError, MatarError, readable_line
from matar_tf.figures import is_metric_value
from matar_tf.inputs import InputInfo, inputs_to_json
from matar_tf.io.json_reader import JsonReader, json_text
from matar_tf.measurements import Measurements
from matar_tf.outputs import OutputInfo, outputs_to_json
from matar_tf.parameters import Parameters
from matar_tf.space import PolicySpace
from matar_tf.template_map import TemplateMap
from matar_tf.workload import OpKind, Workload

__all__ = [
    "DIGEST_KEY",
    "MANIFEST",
    "MEASUREMENTS",
    "OPTIONAL",
    "PARAMETERS",
    "SCHEMA_VERSION",
    "TEMPLATE",
    "UNVERIFIED",
    "Artifact",
    "Source",
    "check_no_member",
    "manifest_digest",
]

SCHEMA_VERSION: Final = 4
MANIFEST: Final = "manifest.json"
TEMPLATE: Final = "template.tflite"
PARAMETERS: Final = "parameters.npz"
MEASUREMENTS: Final = "measurements.json"
OPTIONAL: Final = ("network.json", "network.npz", "calibration.npz")
DIGEST_KEY: Final = "manifest_sha256"  # of the manifest, of all its other keys

_MAX_AMOUNT: Final = 1 << 20  # values and characters of accuracy and provenance
UNVERIFIED: Final = (
    "accuracy and provenance of the artifact are unverified: no digest in it covers "
    "them, since an earlier version packaged it"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The file or folder that an artifact was read from.

    Attributes:
      digest: SHA-256 of its manifest and, since that holds theirs, of all members.
      has_digest: Whether it says so itself. If not (schema_version 3), nothing in it
        covers accuracy and provenance: they are unverified.
      signed_by: The key or certificate that the reader trusted, which signed it; empty
        where trust was not asked for.
    """

    digest: str
    has_digest: bool
    signed_by: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Artifact:
    """A packaged network.

    Attributes:
      space: The widths that each policy entry may take.
      workload: What the network asks of hardware.
      parameters: The trained numbers.
      template: ``.tflite`` bytes into which a policy is filled.
      template_map: Where the policy entries sit in the template.
      accuracy: Metrics that the developer measured, by name (``float``, ``w8a8``).
      provenance: Recipe, seed, versions and command that made the network.
      extras: Optional members by file name, such as ``network.json``.
      measurements: What the developer measured of many policies, or None.
      outputs: What each output is, by name; empty for networks of earlier versions.
      inputs: What samples of each input were, by name; empty if it is not known.
      name: What the network is called where it is shown: that of the file it was read
        from.
      source: That file; None for a network that was packaged here.

    Raises:
      ArtifactError: If accuracy is not finite numbers by policy and metric, shares
        within 0..1, or provenance is no JSON object, or both are more than a million
        values and characters, or steps are not those that the space says.
      PolicyError: If a measured policy is not of the space.
    """

    space: PolicySpace
    workload: Workload
    parameters: Parameters
    template: bytes
    template_map: TemplateMap
    accuracy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, bytes] = field(default_factory=dict)
    measurements: Measurements | None = None
    outputs: Mapping[str, OutputInfo] = field(default_factory=dict)
    inputs: Mapping[str, InputInfo] = field(default_factory=dict)
    name: str = "network"
    source: Source | None = None

    def __post_init__(self) -> None:
        self.parameters.check_scale(self.space.scale)
        _check_amount([self.accuracy, self.provenance])
        accuracy, provenance = _plain(self.accuracy), _plain(self.provenance)
        if not _is_accuracy(accuracy):
            raise ArtifactError(
                "Expected finite numbers by policy and metric for accuracy=, shares "
                "within 0..1, such as {'float': {'accuracy': 0.97}}, got "
                f"{str(self.accuracy)[:80]}; give it in this form."
            )
        if not isinstance(provenance, dict):
            raise ArtifactError(
                "Expected a JSON object for provenance=, such as {'recipe': 'mine'}, "
                f"got {str(self.provenance)[:80]!r}; give a dict."
            )
        _check_json({"accuracy": accuracy, "provenance": provenance})
        object.__setattr__(self, "accuracy", accuracy)
        object.__setattr__(self, "provenance", provenance)
        if self.measurements is not None:
            self.measurements.check_space(self.space)

    def _num_scales(self, entry: str | None) -> int:
        """Returns how many steps a kernel has, of each a float of 32 bits is stored."""
        # A layer in float may store none.
        layer = None if entry is None else self.parameters.layers.get(entry)
        return 0 if layer is None else layer.step.shape[1]

    def __repr__(self) -> str:
        workload, space = self.workload, self.space
        num_bytes = sum(
            layer.weight_elems * (layer.name in workload.storing)
            + 4 * (layer.bias_elems + self._num_scales(layer.weights))
            for layer in workload.layers
        )
        lines = [
            f"{self.name}: {len(workload.layers)} layers, {workload.macs:,} MACs, "
            f"{num_bytes:,} bytes of weights at 8 bits",
            *self._ends(),
            f"  {len(space.weights)} weights in {_widths(space.weights)} bits, "
            f"{len(space.activations)} activations in {_widths(space.activations)} "
            f"bits: {space.described()}",
        ]
        lines += self._float_lines()
        note = "" if self.is_verified else "  (unverified)"
        lines += [
            f"  {name:8s} "
            + ", ".join(f"{metric} {value:.4f}" for metric, value in row.items())
            + note
            for name, row in self.accuracy.items()
        ]
        if self.measurements is not None:
            lines.append(f"  {self.measurements}")
        return "\n".join(lines)

    def _ends(self) -> list[str]:
        """Returns what inputs and outputs are, in lines."""
        tensors = self.workload.tensors
        inputs = {name: tensors[name].shape for name in self.workload.inputs}
        if len(inputs) == len(self.workload.outputs) == 1:
            (shape,) = inputs.values()
            made = [tensors[self.workload.outputs[0]].shape, *self.outputs.values()]
            return [f"  input {shape}, output {made[-1]}"]
        named = {
            "inputs": inputs,
            "outputs": self.outputs
            or {name: tensors[name].shape for name in self.workload.outputs},
        }
        return [
            f"  {ends} {', '.join(f'{name} {one}' for name, one in given.items())}"
            for ends, given in named.items()
        ]

    @property
    def float_layers(self) -> dict[str, str]:
        """Why each layer that stays in float does, by its name; "" if it is not known.

        The reasons are those that `package` put on record under this name.
        """
        given = self.provenance.get("float_layers")
        known = cast("dict[str, object]", given) if isinstance(given, dict) else {}
        reasons = {name: known.get(name) for name in self.template_map.islands}
        return {
            name: reason if isinstance(reason, str) else ""
            for name, reason in reasons.items()
        }

    def _float_lines(self) -> list[str]:
        """Returns what is shown of layers that stay in float."""
        found = self.float_layers
        if not found:
            return []
        rows = [one for one in self.workload.layers if one.kind is OpKind.FLOAT]
        share = sum(one.macs for one in rows) / max(self.workload.macs, 1)
        noun = "layer" if len(found) == 1 else "layers"
        lines = [f"  {len(found)} {noun} in float, {share:.1%} of the MACs:"]
        return [
            *lines,
            *(
                readable_line(f"    {name}: {reason}".rstrip(": "))
                for name, reason in found.items()
            ),
        ]

    @property
    def is_verified(self) -> bool:
        """Whether accuracy and provenance are as they were written.

        Not known of files before schema_version 4, whose digests leave them out.
        """
        return self.source is None or self.source.has_digest

    def members(self) -> dict[str, bytes]:
        """Returns the files of the artifact, the manifest last.

        Raises:
          ArtifactError: If an extra member has no known name.
        """
        for name in self.extras:
            if name not in OPTIONAL:
                raise ArtifactError(
                    f"Expected extras among {list(OPTIONAL)}, got {name!r}."
                )
        members = {
            TEMPLATE: self.template,
            PARAMETERS: self.parameters.to_npz(),
            **self.extras,
        }
        if self.measurements is not None:
            document = self.measurements.to_json(self.space)
            members[MEASUREMENTS] = json.dumps(document, allow_nan=False).encode()
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "space": self.space.to_json(),
            "workload": self.workload.to_json(),
            "template_map": self.template_map.to_json(),
            "accuracy": self.accuracy,
            "provenance": self.provenance,
            # Manifests of earlier versions have none, and stay as they were.
            **({"outputs": outputs_to_json(self.outputs)} if self.outputs else {}),
            **({"inputs": inputs_to_json(self.inputs)} if self.inputs else {}),
            "sha256": {
                name: hashlib.sha256(content).hexdigest()
                for name, content in members.items()
            },
        }
        manifest[DIGEST_KEY] = manifest_digest(manifest)
        members[MANIFEST] = json_text(manifest).encode()
        return members

    def digest(self) -> str:
        """Returns the SHA-256 of what decides the accuracy of a policy.

        Provenance, the accuracy table and measurements do not count: the same network
        packaged again keeps its digest, and with it its stored evaluations. What it
        costs follows from the template, which counts.
        """
        total = hashlib.sha256()
        for part in (
            self.template,
            json.dumps(self.template_map.to_json(), sort_keys=True).encode(),
            json.dumps(self.space.to_json(), sort_keys=True).encode(),
        ):
            total.update(hashlib.sha256(part).digest())
        # Not of the bytes of a file, which follow from the zlib that packed them.
        total.update(self.parameters.digest())
        return total.hexdigest()


def check_no_member(path: Path, error: type[MatarError]) -> None:
    """Checks that nothing is written into the folder of an artifact, which it spoils.

    Args:
      path: Of what is to be written.
      error: What is raised if it would be in such a folder.
    """
    folder = Path(os.path.realpath(path)).parent
    if all((folder / name).is_file() for name in (MANIFEST, TEMPLATE, PARAMETERS)):
        raise error(
            f"Expected a path outside of artifacts, got {path}, in the folder of one, "
            "which would be refused from then on; choose another path."
        )


def _check_amount(document: Any) -> None:
    """Checks that what goes on record is no more than is read again with ease.

    Raises:
      ArtifactError: If it is more, or holds itself.
    """
    count, level = 0, [document]
    while level:
        count += len(level) + sum(len(one) for one in level if isinstance(one, str))
        if count > _MAX_AMOUNT:
            raise ArtifactError(
                f"Expected at most {_MAX_AMOUNT} values and characters of accuracy and "
                f"provenance together, got {count} or more; keep long records in a "
                "file of their own."
            )
        level = [inner for one in level for inner in _inside(one)]


def _inside(value: Any) -> Iterable[Any]:
    """Returns what a value of JSON is made of, keys too."""
    if isinstance(value, Mapping):
        return itertools.chain.from_iterable(cast("Mapping[Any, Any]", value).items())
    return cast("Any", value) if isinstance(value, (list, tuple)) else ()


def _plain(value: Any) -> Any:
    """Returns what JSON has in the place of mappings, tuples and numbers of NumPy."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in cast("Any", value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in cast("Any", value)]
    return value


def _is_accuracy(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(row, dict)
        and all(
            isinstance(name, str) and is_metric_value(name, figure)
            for name, figure in cast("dict[Any, Any]", row).items()
        )
        for row in cast("dict[Any, Any]", value).values()
    )


def _check_json(document: dict[str, Any]) -> None:
    """Checks that what goes on record can be written, and read again as it is.

    Raises:
      ArtifactError: If it cannot.
    """
    what = "accuracy and provenance"
    try:
        text = json.dumps(document, allow_nan=False)
    except (RecursionError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"Expected JSON with finite numbers for {what}, but: {error}; give texts, "
            "numbers, lists and dicts."
        ) from error
    if JsonReader(ArtifactError).parse(text, what) != document:
        raise ArtifactError(
            f"Expected JSON for {what}, got keys that are no texts; name them by texts."
        )


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a manifest, in hex.

    That of its JSON in ASCII without spaces, in the order of its keys, which is that of
    policy entries, and without the key of the digest itself.

    Raises:
      ArtifactError: If a number in it is not finite, or something is no JSON.
    """
    covered = {key: value for key, value in manifest.items() if key != DIGEST_KEY}
    try:
        text = json.dumps(covered, separators=(",", ":"), allow_nan=False)
    except (RecursionError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"Expected JSON with finite numbers in the manifest, but: {error}; package "
            "the model again."
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()


def _widths(entries: Mapping[str, tuple[int, ...]]) -> str:
    """Returns the widths that entries take, from the narrowest to the widest."""
    widths = sorted({bits for choices in entries.values() for bits in choices})
    return "/".join(map(str, widths))
