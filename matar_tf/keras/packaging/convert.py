"""Quantized Keras model -> TFLite flatbuffer, through the public converter.

Every n-bit tensor is handed to the converter as an 8-bit one with the same step, so
that the file holds int8 containers: activations with their n-bit range at the top of
int8 (the upper clamp is saturation), weights as level times k.

Two graphs are made this way. The *template* has an invented, unmistakable scale for
each tensor: `matar_tf.tflite` finds every tensor of the file by its scale and fills
policies in. The *reference* has the values of one policy: the long way to the same
file, for checking the fill.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from matar_tf.keras._compat import KerasLayer, KerasModel, Tensor, infer, tf
from matar_tf.keras.checks import check_initialized
from matar_tf.keras.packaging.common_arrays import calls_of
from matar_tf.keras.packaging.float_layers import FloatCall, convertible, float_calls
from matar_tf.keras.packaging.recurrent import is_recurrent
from matar_tf.keras.policies import get_policy, policy_setter
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.accumulators import snap_affine, snap_bias
from matar_tf.keras.quantizers.derived import PoolQuantizer
from matar_tf.keras.quantizers.grids import (
    ActivationGrid,
    BiasGrid,
    FoldedNorm,
    InputGrid,
    KernelGrid,
    LearnedGrid,
)
from matar_tf.keras.quantizers.tracing import FloatTracer, Tracer, tracing
from matar_tf.parameters import activation_range, weight_range
from matar_tf.policy import MAX_BITS
from matar_tf.tflite._islands import without_marks
from matar_tf.tflite._pieces import CodedKernel, ComputedKernelError, code_values
from matar_tf.tflite.profiles import largest_factor
from matar_tf.tflite.template import Fingerprints, Template, read_template

__all__ = ["convert_policy", "make_template"]

_INT8_MAX = 127
_ACTIVATION_SCALE, _WEIGHT_SCALE, _RATIO = 0.02, 0.0005, 1.003


def make_template(model: KerasModel) -> Template:
    """Converts a quantized model once, so that any policy can be filled in.

    Raises:
      ModelError: If a layer is not quantized, an input has no fixed size, or the
        converter left a float kernel.
    """
    try:
        return _template(model)
    except ComputedKernelError as error:
        kept = _computed(model, error)
    if is_recurrent(model):
        try:
            return _template(model, starts_from_samples=True)
        except ComputedKernelError as error:
            kept = _computed(model, error)
    return _template(model, kept, starts_from_samples=True)


def _computed(model: KerasModel, error: ComputedKernelError) -> frozenset[str]:
    """Returns the kernels of which a converter computed something, or their layers.

    As a rule constants, which need no operators; what the converter would compute of
    these beforehand, the file does.
    """
    if None in error.islands:
        raise error
    names = [wrapper.inner_layer(one.layer).name for one in float_calls(model)]
    return error.missing | {names[one] for one in error.islands if one is not None}


def _template(
    model: KerasModel,
    kept: frozenset[str] = frozenset(),
    *,
    starts_from_samples: bool = False,
) -> Template:
    """Returns a template.

    Args:
      model: A quantized model.
      kept: Kernels of float layers of which nothing may be computed beforehand: their
        entries, or the names of their layers.
      starts_from_samples: As for `in_steps`.
    """
    tracer = _TemplateTracer(calls_of(model), kept)
    content, outputs, in_float = _convert(
        model, tracer, starts_from_samples=starts_from_samples
    )
    return read_template(content, tracer.fingerprints(in_float), outputs)


def convert_policy(model: KerasModel) -> bytes:
    """Converts a quantized model under the policy in force: slow, for checks.

    Dense kernels come out per tensor only if all channels share a step: the converter
    refuses per-channel fake quantization there.
    """
    check_initialized(model)
    content, _, in_float = _convert(model, _PolicyTracer())
    return without_marks(content) if in_float else content


def _convert(
    model: KerasModel, tracer: Tracer, *, starts_from_samples: bool = False
) -> tuple[bytes, dict[str, str], tuple[FloatCall, ...]]:
    """Returns a file.

    With it the names of several outputs by those of their tensors, and the calls of
    float layers by the numbers of their marks.
    """
    signature = [
        tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, name=layer.name)
        for tensor, layer in zip(model.inputs, model._input_layers, strict=True)
    ]

    def outputs(*inputs: Tensor) -> Tensor:
        return infer(model, inputs[0] if len(inputs) == 1 else list(inputs))

    function = tf.function(outputs, input_signature=signature, autograph=False)
    is_float = not any(map(wrapper.is_quantized, model._flatten_layers()))
    before = None if is_float else get_policy(model)
    changed = convertible(model, starts_from_samples=starts_from_samples)
    with tracing(tracer), changed as in_float:
        concrete = function.get_concrete_function()
    if before is not None:
        policy_setter(model)(before)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    # By way of a SavedModel the same graph takes 30 times as long and leaves 100 to
    # 250 MB behind in the process; it adds a signature, as `read_template` does.
    converter.experimental_lower_to_saved_model = False
    converter.allow_custom_ops = bool(in_float)  # their marks
    # By these names each output of the file is known, whatever their order there.
    names = [tensor.op.name for tensor in concrete.outputs]
    named = dict(zip(names, wrapper.output_names(model), strict=True))
    with _quiet():
        content = bytes(converter.convert())
    return content, named if len(named) > 1 else {}, in_float


def _top(x: Tensor, step: float, qmax: int) -> Tensor:
    """An 8-bit fake quantization whose highest level is `qmax`."""
    return tf.quantization.fake_quant_with_min_max_vars(
        x, float(np.float32((qmax - 255) * step)), float(np.float32(qmax * step))
    )


def _store_activation(x: Tensor, step: float, num_bits: int, *, signed: bool) -> Tensor:
    """Levels of `num_bits` inside an 8-bit container; see the module docstring."""
    qmin, qmax = activation_range(num_bits, signed=signed)
    stored = _top(x, step, qmax)
    if signed and num_bits < MAX_BITS:
        clamped = tf.maximum(stored, tf.constant(qmin * step, tf.float32))
        stored = _top(clamped, step, qmax)
    return stored


def _store_kernel(
    levels: np.ndarray, scale: np.ndarray, *, per_channel: bool
) -> Tensor:
    """A constant kernel on an 8-bit grid; exactly one fake quantization.

    Args:
      levels: Integers in -127..127, shape of the kernel.
      scale: Per channel, shape of the last axes of the kernel.
      per_channel: Whether the converter takes one scale per channel.
    """
    kernel = tf.constant((levels * scale).astype(np.float32))
    if not per_channel:
        high = float(127 * scale.flat[0])
        return tf.quantization.fake_quant_with_min_max_vars(
            kernel, -high, high, narrow_range=True
        )
    order = list(range(levels.ndim))
    if scale.ndim == 2 and scale.shape[1] == 1:
        # Depthwise, [..., in, 1]: the converter wants the channels on the last axis.
        order[-2:] = order[-1], order[-2]
    num_channels = levels.shape[order[-1]]
    high = (127 * scale.reshape(-1)[-num_channels:]).astype(np.float32)
    stored = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        tf.transpose(kernel, order), -high, high, narrow_range=True
    )
    return tf.transpose(stored, order)


def _is_per_channel(quantizer: KernelGrid, kernel: Tensor) -> bool:
    # The converter refuses it for dense and transposed kernels.
    return len(kernel.shape) > 2 and not quantizer.is_transposed


def _bits_and_step(quantizer: KernelGrid | ActivationGrid) -> tuple[int, np.ndarray]:
    with tf.init_scope():
        return quantizer.bits[int(quantizer.row)], quantizer.step().numpy()


def _source(quantizer: InputGrid) -> ActivationGrid:
    source = quantizer.source()
    if source is None:
        raise AssertionError("a converted model has been put together")
    return source


class _TemplateTracer(FloatTracer):
    """Gives every tensor an invented scale."""

    def __init__(
        self, calls: Mapping[str, Sequence[str]], kept: frozenset[str]
    ) -> None:
        self._calls = calls
        self._kept = kept  # kernels of float layers that are marked, or their layers
        self._weights: dict[str, float] = {}
        self._activations: dict[str, float] = {}
        self._signed: list[str] = []
        self._float_kernels: dict[str, CodedKernel] = {}

    def fingerprints(self, in_float: Sequence[FloatCall]) -> Fingerprints:
        """Returns the scales that were given out.

        Args:
          in_float: The calls of float layers by the numbers of their marks.
        """
        return Fingerprints(
            float_layers=tuple(one.name for one in in_float),
            float_kernels=self._float_kernels,
            weights=self._weights,
            activations=self._activations,
            signed=tuple(self._signed),
            calls={
                entry: tuple(names[1:])
                for entry, names in self._calls.items()
                if len(names) > 1
            },
        )

    def weights(self, quantizer: KernelGrid, x: Tensor) -> Tensor:
        if quantizer.in_float:
            names = [quantizer.entry, quantizer.entry.rpartition("/")[0]]
            is_marked = not self._kept.isdisjoint(names)
            start = sum(one.size for one in self._float_kernels.values())
            kernel = self._float_kernels.setdefault(
                quantizer.entry,
                CodedKernel(
                    start=start,
                    size=x.shape.num_elements(),
                    has_one_step=not quantizer.per_channel,
                    is_marked=is_marked,
                ),
            )
            values = tf.constant(code_values(kernel.start, tuple(x.shape)))
            if not is_marked:
                return values
            # Of no sizes, so of the kernel's shape; an operation that the converter
            # does not know, and whose result is no constant.
            return tf.raw_ops.RandomGamma(shape=tf.constant([], tf.int32), alpha=values)
        entry = quantizer.entry
        known = list(self._weights)
        number = known.index(entry) if entry in known else len(known)
        scale = np.float32(_WEIGHT_SCALE * _RATIO**number)
        rng = np.random.default_rng(number)
        self._weights[entry] = float(scale)
        levels = rng.integers(-127, 128, x.shape)
        # The range of a channel must be used, or the converter may narrow it.
        levels.reshape(-1, *levels.shape[-quantizer.num_channel_axes :])[0] = 127
        channels = x.shape[-quantizer.num_channel_axes :]
        return _store_kernel(
            levels, np.full(channels, scale), per_channel=_is_per_channel(quantizer, x)
        )

    def bias(self, quantizer: BiasGrid, x: Tensor) -> Tensor:
        return self._offset(x.shape[-1], quantizer.layer)

    def activation(self, quantizer: LearnedGrid, x: Tensor) -> Tensor:
        if quantizer.entry not in self._activations:
            step = np.float32(_ACTIVATION_SCALE * _RATIO ** len(self._activations))
            self._activations[quantizer.entry] = float(step)
            if quantizer.signed:
                self._signed.append(quantizer.entry)
        step = self._activations[quantizer.entry]
        return _store_activation(x, step, quantizer.bits[0], signed=quantizer.signed)

    def input_grid(self, quantizer: InputGrid, x: Tensor) -> Tensor:
        if isinstance(quantizer, PoolQuantizer):
            return x
        source = _source(quantizer)
        _, qmax = activation_range(source.bits[0], signed=source.signed)
        if source.entry in self._activations:
            return _top(x, self._activations[source.entry], qmax)
        return _top(x, float(_bits_and_step(source)[1]), qmax)

    def batch_norm(self, layer: FoldedNorm, x: Tensor) -> Tensor:
        return x + self._offset(x.shape[-1], wrapper.multiplier(layer))

    def _offset(self, size: int, layer: KerasLayer) -> Tensor:
        # Never zero, or the converter drops the bias; another for each call.
        kernel = wrapper.kernel_quantizer(layer)
        names = self._calls[kernel.entry] if kernel is not None else []
        call = names.index(wrapper.entry_name(layer)) if len(names) > 1 else 0
        return tf.constant(np.linspace(1.0, 2.0, size, dtype=np.float32) + call)


class _PolicyTracer(FloatTracer):
    """Gives every tensor its values under the policy in force."""

    def weights(self, quantizer: KernelGrid, x: Tensor) -> Tensor:
        if quantizer.in_float:
            with tf.init_scope():
                return tf.constant(quantizer.fake_quantize(x).numpy())
        bits, step = _bits_and_step(quantizer)
        qmin, qmax = weight_range(bits)
        with tf.init_scope():
            kernel = tf.convert_to_tensor(x).numpy()
        is_per_channel = step.ndim > 0 and _is_per_channel(quantizer, x)
        if quantizer.is_transposed and step.ndim > 0:
            step = step[:, np.newaxis]
        levels = np.floor(np.clip(kernel / step, qmin, qmax) + np.float32(0.5))
        factor = largest_factor(bits, _INT8_MAX, quantizer.scale)
        return _store_kernel(
            levels * factor, np.asarray(step / factor), per_channel=is_per_channel
        )

    def bias(self, quantizer: BiasGrid, x: Tensor) -> Tensor:
        with tf.init_scope():
            bias = tf.convert_to_tensor(x)
            return tf.constant(snap_bias(bias, quantizer.layer).numpy())

    def activation(self, quantizer: LearnedGrid, x: Tensor) -> Tensor:
        bits, step = _bits_and_step(quantizer)
        return _store_activation(x, float(step), bits, signed=quantizer.signed)

    def input_grid(self, quantizer: InputGrid, x: Tensor) -> Tensor:
        if isinstance(quantizer, PoolQuantizer):
            return x
        source = _source(quantizer)
        bits, step = _bits_and_step(source)
        _, qmax = activation_range(bits, signed=source.signed)
        return _top(x, float(step), qmax)

    def batch_norm(self, layer: FoldedNorm, x: Tensor) -> Tensor:
        with tf.init_scope():
            scale, offset = layer.folded()
            scale, offset = snap_affine(scale, offset, wrapper.multiplier(layer))
            scale, offset = scale.numpy(), offset.numpy()
        return x * tf.constant(scale) + tf.constant(offset)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the converter's C++ log off the terminal; errors are raised anyway."""
    saved = os.dup(2)
    with tempfile.TemporaryDirectory() as folder:
        log = os.open(Path(folder) / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(log)
