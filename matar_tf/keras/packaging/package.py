"""Trained multi-bitwidth model -> artifact."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from matar_tf.artifact import Artifact
from matar_tf.card import CARD_KEY, ModelCard
from matar_tf.errors import ArtifactError, MatarWarning, did_you_mean
from matar_tf.inputs import InputInfo
from matar_tf.keras._compat import KerasLayer, KerasModel, Tensor
from matar_tf.keras.calibration import calibration_inputs, calibration_record
from matar_tf.keras.checks import (
    check_finite_weights,
    check_initialized,
    warn_of_grids,
)
from matar_tf.keras.packaging.common_arrays import (
    calls_of,
    layout_of,
    norms_of,
    to_tflite,
)
from matar_tf.keras.packaging.convert import make_template
from matar_tf.keras.packaging.float_layers import float_reasons
from matar_tf.keras.packaging.network import network_members, why_unstored
from matar_tf.keras.packaging.sizes import InputShape, with_input_shape
from matar_tf.keras.policies import get_policy_space
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import activation_name
from matar_tf.keras.quantizers.grids import KernelGrid
from matar_tf.layer_kinds import ACTIVATIONS
from matar_tf.norms import NormParameters
from matar_tf.operators import Grid
from matar_tf.outputs import OutputInfo
from matar_tf.parameters import LayerParameters, Parameters, TensorParameters
from matar_tf.tflite.ends import inputs_of, outputs_of
from matar_tf.tflite.fitting_data import input_infos
from matar_tf.tflite.workload import read_workload

__all__ = ["extract_parameters", "package", "training_versions"]

# What ends in an operator alone, by its name.
_FUNCTIONS: Final = {
    row.operator: name for name, row in ACTIVATIONS.items() if row.grid is Grid.FIXED
}
_KNOWN: Final = (
    "float_layers",
    "versions",
    "calibration_digest",
    "calibration_samples",
    CARD_KEY,
)


# Each is a keyword by itself.
def package(  # noqa: PLR0913
    model: KerasModel,
    *,
    accuracy: Mapping[str, Mapping[str, float]] | None = None,
    provenance: Mapping[str, Any] | None = None,
    card: ModelCard | None = None,
    outputs: Mapping[str, str] | None = None,
    samples: Any = None,
    channels: str = "",
    input_shape: InputShape | None = None,
    include_network: bool = True,
) -> Artifact:
    """Packages a trained multi-bitwidth model.

    Warns in one sentence of grids that do not fit what training saw last, and where the
    Keras network is left out since it holds code of the user's.

    Args:
      model: What `quantize_model` made, trained, or its trainer.
      accuracy: Metrics to put on record, by name (``float``, ``w8a8``).
      provenance: JSON object that says how the model was made; added to what is known
        here: versions of packages, digest and number of the samples given to
        `calibrate` in this process, and, if it names none, the command.
      card: What those should know who retarget it, or None.
      outputs: What outputs mean, by the names of their layers: ``{"boxes": "offsets of
        the anchors' corners"}``; None for those of which there is nothing to say.
      samples: Samples of the data, as the network takes them: their range and the mean
        and deviation of each channel are put on record, so that a search notices
        others. None for those given to `calibrate` in this process.
      channels: What the channels of images are, in order: ``RGB``.
      input_shape: Shape of the samples that ship, without an axis for them, where the
        model leaves sizes open: ``(224, 224, 3)``; of several inputs by their names.
      include_network: Whether to add the Keras network, to compare with or to train
        on.

    Raises:
      ModelError: If the model is not wholly quantized, not trained, or its training
        diverged, or a size of its inputs is missing.
      ArtifactError: If accuracy or provenance is not what `Artifact` takes, or
        provenance says otherwise what is known here, or there is no such output, or
        channels are named of no known samples.
      DataError: If the samples do not fit the model's inputs.
    """
    model = wrapper.multi_bit_network(model)
    check_initialized(model)
    check_finite_weights(model)
    warn_of_grids(model)
    reasons = float_reasons(model)
    in_float = {"float_layers": reasons} if reasons else {}
    record = {**calibration_record(model), **in_float}
    calibrated = calibration_inputs(model)
    model = with_input_shape(model, input_shape)
    template = make_template(model)
    reason = why_unstored(model) if include_network else ""
    if reason:
        warnings.warn(
            f"The artifact of {model.name!r} holds no Keras network: {reason}",
            MatarWarning,
            stacklevel=2,
        )
    extras = network_members(model) if include_network and not reason else {}
    return Artifact(
        space=get_policy_space(model),
        workload=read_workload(template),
        parameters=extract_parameters(model),
        template=template.content,
        template_map=template.places,
        accuracy={} if accuracy is None else accuracy,
        provenance=_provenance(record, {} if provenance is None else provenance, card),
        extras=extras,
        outputs=_outputs(model, template.content, outputs or {}),
        inputs=_inputs(template.content, samples, calibrated, channels),
    )


def _inputs(
    template: bytes, samples: Any, calibrated: Mapping[str, InputInfo], channels: str
) -> dict[str, InputInfo]:
    """Returns what samples of each input are, as far as it is known."""
    if channels and samples is None and not calibrated:
        raise ArtifactError(
            f"Expected samples= beside channels={channels!r}, to say what they are, "
            "got none; give some of the data."
        )
    ends = inputs_of(template)
    known = calibrated if samples is None else input_infos(template, samples)
    if len(known) == 1:  # whatever its name
        known = dict.fromkeys([one.name for one in ends], *known.values())
    # Sizes may have been open, channels are not.
    return {
        one.name: replace(
            known[one.name],
            shape=one.shape,
            channels=channels if len(one.shape) == 3 or len(ends) == 1 else "",
        )
        for one in ends
        if known
    }


def _outputs(
    model: KerasModel, template: bytes, about: Mapping[str, str]
) -> dict[str, OutputInfo]:
    """Returns what each output of a model is."""
    names = wrapper.output_names(model)
    for name in about:
        if name not in names:
            raise ArtifactError(
                f"Expected the names of outputs in outputs=, got {name!r}. "
                f"{did_you_mean(name, names)}"
            )
    found = outputs_of(template)
    by_name = (
        {one.name: one for one in found}
        if len(found) > 1
        else {names[0]: next(iter(found))}
    )
    return {
        name: OutputInfo(
            shape=by_name[name].shape,
            kind=_FUNCTIONS.get(by_name[name].function)
            or activation_name(wrapper.output_maker(tensor)),
            about=about.get(name, ""),
        )
        for name, tensor in zip(names, model.outputs, strict=True)
    }


def _provenance(
    record: Mapping[str, Any], given: Mapping[str, Any], card: ModelCard | None
) -> Mapping[str, Any]:
    """Returns what is put on record of how a model was made."""
    if not isinstance(given, Mapping):
        return given  # which the artifact refuses
    for name in _KNOWN:
        if name in given:
            raise ArtifactError(
                f"Expected provenance= without {name!r}, which package puts on record "
                f"itself, got {str(given[name])[:80]!r}; name it otherwise."
            )
    known = {"versions": training_versions(), **record}
    cards = {} if card is None else {CARD_KEY: card.to_json()}
    return {"command": "matar_tf.package", **known, **given, **cards}


def extract_parameters(model: KerasModel) -> Parameters:
    """Returns the trained numbers of a multi-bitwidth model."""
    norms, calls = norms_of(model), calls_of(model)
    layers: dict[str, LayerParameters] = {}
    tensors: dict[str, TensorParameters] = {}
    for layer in model.layers:
        kernel = wrapper.kernel_quantizer(layer)
        if kernel is not None and kernel.layer is layer:
            further = calls[kernel.entry][1:]
            layers[kernel.entry] = _layer_parameters(layer, kernel, norms, further)
        for quantizer, variable in wrapper.float_kernels(layer):
            layers[quantizer.entry] = _float_parameters(quantizer, variable)
        for quantizer in wrapper.all_quantizers(layer):
            if quantizer.kind == "activations":
                tensors[quantizer.entry] = TensorParameters(
                    bits=quantizer.bits,
                    step=quantizer.all_steps(),
                    signed=quantizer.signed,
                )
    return Parameters(layers=layers, tensors=tensors)


def training_versions() -> dict[str, str]:
    """Returns the versions of what decides a training, for the record."""
    names = ("numpy", "tensorflow", "tf_keras", "tensorflow-model-optimization")
    return {name: importlib.metadata.version(name) for name in names}


def _layer_parameters(
    layer: KerasLayer,
    kernel: KernelGrid,
    norms: Mapping[str, KerasLayer],
    calls: Sequence[str],
) -> LayerParameters:
    inner, stored = wrapper.inner_layer(layer), wrapper.kernel_variable(layer).numpy()
    values, channel_axis = to_tflite(layout_of(inner, stored.ndim), stored)
    step = kernel.all_steps().reshape(len(kernel.bits), -1)
    norm = _norm_parameters(norms.get(kernel.entry))
    return LayerParameters(
        kernel=values,
        channel_axis=channel_axis,
        bits=kernel.bits,
        step=step,
        bias=wrapper.bias_variable(layer).numpy()
        if norm is None and inner.use_bias
        else None,
        norm=norm,
        calls={call: _norm_parameters(norms.get(call)) for call in calls},
    )


def _float_parameters(quantizer: KernelGrid, variable: Tensor) -> LayerParameters:
    """Returns what is learned of a kernel in float, as Keras has it."""
    kernel = variable.numpy()
    if quantizer.num_channel_axes > 1:
        kernel = kernel.reshape(*kernel.shape[: -quantizer.num_channel_axes], -1)
    return LayerParameters(
        kernel=kernel,
        channel_axis=kernel.ndim - (2 if quantizer.is_transposed else 1),
        bits=quantizer.bits,
        step=quantizer.all_steps().reshape(len(quantizer.bits), -1),
    )


def _norm_parameters(norm: KerasLayer | None) -> NormParameters | None:
    if norm is None:
        return None
    return NormParameters(
        entries=norm.entries,
        gamma=norm.gamma.numpy(),
        beta=norm.beta.numpy(),
        mean=norm.moving_mean.numpy(),
        variance=norm.moving_variance.numpy(),
        epsilon=norm.epsilon,
    )
