"""Template + policy -> ``.tflite`` bytes, by NumPy and flatbuffers alone.

Integers follow the rules of training (`matar_tf.keras.quantizers.fake_quantize`): a
weight is ``level * k`` with scale ``s / k``, an activation has its n-bit range at the
top of int8 (zero point ``127 - qmax``), or, where values below the lowest level must be
cut off, at its bottom after a saturating QUANTIZE (zero point ``-128 - qmin``). A bias
is a whole number of ``s_in * s``, the unit in which n-bit hardware accumulates, so that
it is the same number in every form of storage. A channel whose scale is 0, or so small
that this unit could not hold its bias, passes its bias on and nothing else. Activations
of 16 bits (`matar_tf.tflite._widening`) have zero points of 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from matar_tf.errors import ExportError
from matar_tf.packaged import Artifact
from matar_tf.parameters import activation_range
from matar_tf.policy import MAX_BITS, Policy
from matar_tf.scales import FREE
from matar_tf.space import PolicySpace
from matar_tf.tflite._containers import Kernel, Storage
from matar_tf.tflite._fill_checks import check_kernels, check_ratios, check_steps
from matar_tf.tflite._float_kernels import (
    kernel_names,
    store_pieces,
)
from matar_tf.tflite._integer_ends import (
    FLOAT_ENDS,
    describe_ends,
    make_integer_ends,
)
from matar_tf.tflite._levels import passing_channels, quantize_kernel
from matar_tf.tflite._places import makers_of
from matar_tf.tflite._schema import (
    CheckedModel,
    bias_of,
    compact,
    drop_tensors,
    parse_model,
    quantization,
    source_of,
    write_model,
)
from matar_tf.tflite._widening import widen, written_at_16
from matar_tf.tflite.about import about_artifact
from matar_tf.tflite.metadata import add_metadata
from matar_tf.tflite.profiles import (
    check_int8,
    get_profile,
    largest_count,
    store_kernels,
)
from matar_tf.tflite.standard_metadata import (
    STANDARD_KEY,
    add_standard,
    check_standard,
)
from matar_tf.tflite.template import Template
from matar_tf.wide import step_at

__all__ = ["ModelBuilder"]


class ModelBuilder:
    """Fills policies into an artifact's template.

    Args:
      artifact: The packaged network.
      template: Its template, if it was checked already.

    Raises:
      ModelError: If the template does not hold the artifact's kernels, or its steps
        are none that the kernels of a runtime take.
      ExportError: If the template is none that may be given to native code.
    """

    def __init__(self, artifact: Artifact, template: Template | None = None) -> None:
        self._artifact = artifact
        self._digest = artifact.digest()
        signed_by = artifact.source.signed_by if artifact.source else ""
        self._signer = {"signed_by": signed_by} if signed_by else {}
        self._template = template or Template.of(
            artifact.template, artifact.template_map
        )
        self._calls = {
            entry: (entry, *self._template.calls(entry))
            for entry in artifact.parameters.layers
        }
        check_kernels(artifact, self._template)
        check_steps(artifact, self._template)

    def build(
        self,
        policy: Policy,
        metadata: Mapping[str, Any] | None = None,
        *,
        profile: str = "int8",
        io: str = FLOAT_ENDS,
    ) -> CheckedModel:
        """Returns the ``.tflite`` file of a policy.

        Args:
          policy: A policy of the artifact's space.
          metadata: JSON object to store in the file beside policy and storage; under
            `matar_tf.tflite.standard_metadata.STANDARD_KEY` it may hold the network's
            name: the file has TFLite Metadata then.
          profile: How kernels are stored; a name of `matar_tf.tflite.profiles`.
          io: Type of inputs and outputs: ``float32``, ``int8`` or ``uint8``.

        Raises:
          PolicyError: If the policy is not of the artifact's space.
          ExportError: If there is no such profile, or a tensor has too fine a step, or
            inputs and outputs cannot be of that type.
        """
        policy = self._in_order(policy)
        model, storages = self.fill(policy, profile=profile)
        make_integer_ends(model, io)
        document = self.describe(policy, storages, metadata, profile=profile)
        if io != FLOAT_ENDS:
            document = {**document, "io": {"type": io, **describe_ends(model)}}
        add_metadata(model, document)
        compact(model)
        if policy.is_wide:
            content = written_at_16(model)
        else:
            content = type(self._template.content)(write_model(model))
        if STANDARD_KEY in document:
            check_standard(profile)
            return add_standard(content, self._artifact, document)
        return content

    @property
    def space(self) -> PolicySpace:
        """The policies that can be built."""
        return self._artifact.space

    def about(self, profile: str) -> dict[str, Any]:
        """Returns what files say of inputs and outputs, to give to `build` as metadata.

        Raises:
          ArtifactError: If what the artifact holds as a card is none.
        """
        return about_artifact(self._artifact, profile)

    def fill(
        self, policy: Policy, *, profile: str = "int8"
    ) -> tuple[Any, tuple[Storage, ...]]:
        """Returns the object form of a policy's file, and how kernels are stored.

        Raises:
          PolicyError: If the policy is not of the artifact's space.
          ExportError: If there is no such profile, or a tensor has too fine a step.
        """
        policy = self._in_order(policy)
        model = parse_model(self._template.content)
        if policy.is_wide:
            check_int8(profile)
            widen(model, self._template)
        kernels = [
            self._kernel(model, name, policy)
            for entry in policy.weights
            if entry in self._template.kernels
            for name in self._calls[entry]
        ]
        self._fill_tensors(model, policy)
        in_float = [
            store_pieces(
                model,
                entry,
                pieces,
                self._artifact.parameters.layers[entry],
                policy.weights[entry],
                get_profile(profile).name,
            )
            for entry, pieces in self._template.pieces.items()
        ]
        operators = list(model.subgraphs[0].operators)
        storages = (
            *store_kernels(model, kernels, get_profile(profile)),
            *in_float,
        )
        check_ratios(model, kernels)
        self._drop_identity_clamps(model, policy, operators)
        return model, storages

    def describe(
        self,
        policy: Policy,
        storages: Sequence[Storage],
        metadata: Mapping[str, Any] | None = None,
        *,
        profile: str = "int8",
    ) -> dict[str, Any]:
        """Returns what the file of a policy says of itself."""
        return {
            **(metadata or {}),
            "artifact_digest": self._digest,
            **self._signer,
            "policy": policy.to_json(),
            **({} if self.space.scale == FREE else {"scale": self.space.scale}),
            "profile": profile,
            "kernels": {
                name: one.entry
                for one in storages
                for name in self.stored_names(one.entry)
            },
            "stored_bits": {one.entry: one.stored_bits for one in storages},
            "notes": {one.entry: one.note for one in storages if one.note},
        }

    def stored_names(self, entry: str) -> list[str]:
        """Returns the names of the tensors that hold the kernel of an entry."""
        pieces = self._template.pieces.get(entry)
        first = kernel_names(entry, 1 if pieces is None else len(pieces))
        return [*first, *(f"{name}/kernel" for name in self._calls[entry][1:])]

    def _in_order(self, policy: Policy) -> Policy:
        """Returns a policy in the order of the space: equal ones give equal files."""
        self.space.validate(policy)
        return Policy(
            weights={name: policy.weights[name] for name in self.space.weights},
            activations={
                name: policy.activations[name] for name in self.space.activations
            },
        )

    def identity_clamps(self, policy: Policy) -> tuple[str, ...]:
        """Returns the entries whose cutting off int8 itself does, without operators."""
        activations = policy.activations
        return tuple(
            one for one in self._template.clamps if activations[one] >= MAX_BITS
        )

    def _kernel(self, model: Any, name: str, policy: Policy) -> Kernel:
        place = self._template.kernels[name]
        operator = model.subgraphs[0].operators[place.operator]
        model.subgraphs[0].tensors[operator.inputs[1]].name = f"{name}/kernel"
        entry, call = (place.weights or name), (place.weights and name)
        bits = policy.weights[entry]
        layer = self._artifact.parameters.layers[entry]
        factor, offset = layer.affine(policy, call)
        if place.input is None:
            tensor = model.subgraphs[0].tensors[source_of(model, operator)]
            input_scale = np.float32(tensor.quantization.scale[0])
        else:
            source = self._artifact.parameters.tensors[place.input]
            input_scale = step_at(source, policy.activations[place.input])
        step = layer.step[layer.bits.index(bits)]
        channels = layer.kernel.shape[layer.channel_axis]
        largest = largest_count(bits, is_wide=policy.is_wide)
        passes, scale = passing_channels(
            *(step, factor, offset, input_scale, largest), self.space.scale
        )
        if len(step) < channels and not passes.all():
            raise ExportError(
                f"Expected a bias of {entry!r} that int32 can count in its one step, "
                f"got {int((~passes).sum())} that are too large; give each channel a "
                "step (per_channel=True), or train on."
            )
        levels = quantize_kernel(layer, bits, passes)
        counts = None
        if bias_of(model, operator) >= 0:
            # The converter gives some layers a bias of zeros that the network has not.
            offset = np.zeros(channels) if offset is None else offset
            counts = np.floor(offset / (input_scale * scale) + 0.5).astype(np.int64)
        return Kernel(
            entry=entry,
            operator=operator,
            bits=bits,
            levels=levels,
            scale=scale,
            channel_axis=layer.channel_axis,
            counts=counts,
            input_scale=input_scale,
            scales=self.space.scale,
        )

    def _fill_tensors(self, model: Any, policy: Policy) -> None:
        graph = model.subgraphs[0]
        before_clamps = set(self._template.before_clamps)
        computed = makers_of(model)
        named: set[str] = set()
        for index, entry in self._template.tensors.items():
            bits = policy.activations[entry]
            tensor = self._artifact.parameters.tensors[entry]
            qmin, qmax = activation_range(bits, signed=tensor.signed)
            zero_point = 0 if policy.is_wide else 127 - qmax
            is_clamped = entry in self._template.clamps and index not in before_clamps
            if is_clamped and not policy.is_wide:
                zero_point = -128 - qmin
            graph.tensors[index].quantization = quantization(
                [step_at(tensor, bits)], [zero_point], 0
            )
            final = index not in before_clamps or bits >= MAX_BITS
            if final and entry not in named and index in computed:
                # The first tensor on a grid bears the entry's name, in viewers too.
                graph.tensors[index].name = entry
                named.add(entry)

    def _drop_identity_clamps(
        self, model: Any, policy: Policy, operators: Sequence[Any]
    ) -> None:
        """At 8 bits int8 itself cuts off on both sides.

        Args:
          model: The model, in which kernels may have been surrounded by operators.
          policy: The policy.
          operators: The operators of the template, to which its indices refer.
        """
        graph = model.subgraphs[0]
        dropped: dict[int, int] = {}
        identities: set[int] = set()
        for entry in self.identity_clamps(policy):
            for operator in (operators[i] for i in self._template.clamps[entry]):
                dropped[int(operator.outputs[0])] = int(operator.inputs[0])
                identities.add(id(operator))
        if not dropped:
            return
        graph.operators = [one for one in graph.operators if id(one) not in identities]
        for operator in graph.operators:
            operator.inputs = [dropped.get(int(i), int(i)) for i in operator.inputs]
        graph.outputs = [dropped.get(int(i), int(i)) for i in graph.outputs]
        drop_tensors(model, set(dropped))
