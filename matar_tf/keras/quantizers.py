"""tfmot quantizers whose bit-width is a variable.

Each quantizer holds a bank with one learned step per allowed width (and output
channel, for weights) and an integer variable that says which row is in force. A
policy is applied by writing these integers, so one traced graph serves every
policy.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from matar_tf.keras import graph, numerics
from matar_tf.keras._compat import keras, tf, tfmot
from matar_tf.keras.tracing import active_tracer
from matar_tf.parameters import activation_range, weight_range
from matar_tf.policy import ALL_BITS, MAX_BITS

__all__ = [
    "ActivationQuantizer",
    "BiasQuantizer",
    "FixedGridQuantizer",
    "MultiBitQuantizer",
    "PoolQuantizer",
    "SharedGridQuantizer",
    "WeightQuantizer",
]

_Quantizer: Any = tfmot.quantization.keras.quantizers.Quantizer
_MAX_SAMPLES = 2**16  # elements of a batch that initialise the step of an activation


class MultiBitQuantizer(_Quantizer):
    """What weight and activation quantizers share: the bank and its row.

    Attributes:
      kind: ``weights`` or ``activations``: the part of a policy that it answers to.
      bits: Allowed widths, ascending.
      suffix: Ending of the entry's name, for the second quantizer of a kind in a layer.
      entry: Name of the policy entry that chooses the width; set by `build`.
      row: Integer variable, the index into `bits` in force; set by `build`.
      log_steps: Variable, ``[len(bits), *channels]``; set by `build`.
    """

    kind = ""

    def __init__(self, bits: Sequence[int] = ALL_BITS) -> None:
        self.bits = tuple(int(width) for width in bits)
        self.suffix = ""
        self.entry = ""
        self.row: Any = None
        self.log_steps: Any = None
        self._layer: Any = None

    @property
    def layer(self) -> Any:
        """The Keras layer that this quantizer was built in."""
        return self._layer()

    def ranges(self) -> tuple[list[int], list[int]]:
        """Returns the lowest and the highest level of each width."""
        raise AssertionError("a subclass says which grid it uses")

    def _build_bank(
        self, name: str, layer: Any, steps: Any, *, trainable: bool = True
    ) -> dict[str, Any]:
        """Creates the variables; `steps` is an array ``[len(bits), *channels]``."""
        self._layer = weakref.ref(layer)
        self.entry = graph.entry_name(layer) + self.suffix
        graph.remember_wrapper(layer)
        graph.track_inner_weights(layer)
        self.row = layer.add_weight(
            f"{name}_bits_row",
            shape=(),
            dtype=tf.int32,
            initializer=keras.initializers.Constant(len(self.bits) - 1),
            trainable=False,
        )
        self.log_steps = layer.add_weight(
            f"{name}_log_steps",
            shape=steps.shape,
            dtype=tf.float32,
            initializer=lambda shape, dtype=None, **_: tf.math.log(steps),
            trainable=trainable,
        )
        return {"row": self.row, "log_steps": self.log_steps}

    def _quantize(self, x: Any, elems_per_step: float, *, fused: bool = False) -> Any:
        qmins, qmaxs = self.ranges()
        # LSQ's gradient scale, 1 / sqrt(elements * qmax): without it the many
        # elements of a tensor would move their one step much faster than weights.
        scales = [(elems_per_step * qmax) ** -0.5 for qmax in qmaxs]
        return numerics.quantize_row(
            x,
            self.log_steps,
            self.row,
            tf.constant(qmins, tf.float32),
            tf.constant(qmaxs, tf.float32),
            tf.constant(scales, tf.float32),
            fused=fused,
        )

    def step(self) -> Any:
        """Returns the step in force as a tensor: ``[*channels]``."""
        return tf.exp(tf.gather(self.log_steps, self.row))

    def all_steps(self) -> np.ndarray:
        """Returns the steps of every width, ``[len(bits), *channels]``.

        Computed as `step` computes them, to the last bit: another exponential may
        round differently, and a bias that lies between two counts would fall on the
        other side.
        """
        rows = range(len(self.bits))
        return np.stack(
            [tf.exp(tf.gather(self.log_steps, row)).numpy() for row in rows]
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"bits": list(self.bits)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """Returns a quantizer made from what `get_config` returned."""
        return cls(**config)


@keras.utils.register_keras_serializable(package="matar_tf")
class WeightQuantizer(MultiBitQuantizer):
    """Quantizes a kernel with a zero point of 0, one step per (width, channel).

    Levels ``-(2**(n - 1) - 1) .. 2**(n - 1) - 1``, at 2 bits ``-2 .. 1``. The steps
    start at the least squared error of the kernel that the layer has when it is built.
    The gradient is that of `matar_tf.keras.numerics`.

    Args:
      bits: Allowed widths, ascending, each in 2..8.
      num_channel_axes: How many of the last axes are channels: 1 for kernels
        ``[..., out]``, 2 for depthwise kernels ``[h, w, in, multiplier]``.
    """

    kind = "weights"

    def __init__(
        self, bits: Sequence[int] = ALL_BITS, num_channel_axes: int = 1
    ) -> None:
        super().__init__(bits)
        self.num_channel_axes = num_channel_axes
        self._kernel: Any = None

    def ranges(self) -> tuple[list[int], list[int]]:
        """Returns the lowest and the highest level of each width."""
        pairs = [weight_range(bits) for bits in self.bits]
        return [low for low, _ in pairs], [high for _, high in pairs]

    def observe(self, kernel: Any) -> WeightQuantizer:
        """Remembers the variable whose values initialise the steps."""
        self._kernel = kernel
        return self

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Creates the bank in `layer`; called by tfmot's wrapper."""
        channels = tuple(tensor_shape)[-self.num_channel_axes :]
        with tf.init_scope():
            if self._kernel is None:
                steps = tf.ones((len(self.bits), *channels))
            else:
                flat = tf.reshape(tf.convert_to_tensor(self._kernel), (-1, *channels))
                low, high = self.ranges()
                steps = numerics.optimal_steps(
                    flat, tf.constant(low, tf.float32), tf.constant(high, tf.float32)
                )
            steps = steps.numpy()
        return self._build_bank(name, layer, steps)

    def __call__(
        self, inputs: Any, training: Any, weights: Mapping[str, Any], **_: Any
    ) -> Any:
        """Returns the kernel on the grid of the width in force."""
        tracer = active_tracer()
        if tracer is not None:
            return tracer.weights(self, inputs)
        return self.fake_quantize(inputs)

    def fake_quantize(self, x: Any) -> Any:
        """Returns the kernel on the grid of the width in force."""
        num_channels = x.shape[-self.num_channel_axes :].num_elements()
        return self._quantize(x, x.shape.num_elements() / num_channels)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "num_channel_axes": self.num_channel_axes}


@keras.utils.register_keras_serializable(package="matar_tf")
class ActivationQuantizer(MultiBitQuantizer):
    """Quantizes an activation tensor, one step per width.

    Levels ``0 .. 2**n - 1``, or ``-2**(n - 1) .. 2**(n - 1) - 1`` if `signed`. The
    steps start at the least squared error of the first training batch, or of the
    samples given to `matar_tf.calibrate`; until then the tensor passes unchanged
    through evaluation.

    Args:
      bits: Allowed widths, ascending, each in 2..8.
      signed: Whether the tensor has values below 0.
      trainable: Whether the steps are learned, or stay as they were initialised.
    """

    kind = "activations"

    def __init__(
        self,
        bits: Sequence[int] = ALL_BITS,
        signed: bool = True,
        trainable: bool = True,
    ) -> None:
        super().__init__(bits)
        self.signed = signed
        self.trainable = trainable
        self.initialized: Any = None

    def ranges(self) -> tuple[list[int], list[int]]:
        """Returns the lowest and the highest level of each width."""
        pairs = [activation_range(bits, signed=self.signed) for bits in self.bits]
        return [low for low, _ in pairs], [high for _, high in pairs]

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Creates the bank in `layer`; called by tfmot's wrapper."""
        variables = self._build_bank(
            name, layer, tf.ones(len(self.bits)), trainable=self.trainable
        )
        self.initialized = layer.add_weight(
            f"{name}_initialized",
            shape=(),
            dtype=tf.int32,
            initializer="zeros",
            trainable=False,
        )
        return {**variables, "initialized": self.initialized}

    def initialize(self, x: Any) -> None:
        """Sets the steps to those with the least squared error on `x`."""
        flat = tf.reshape(x, (-1,))
        stride = tf.maximum(tf.size(flat) // _MAX_SAMPLES, 1)
        low, high = self.ranges()
        steps = numerics.optimal_steps(
            tf.ensure_shape(flat[::stride], (None,)),
            tf.constant(low, tf.float32),
            tf.constant(high, tf.float32),
        )
        self.log_steps.assign(tf.math.log(steps))
        self.initialized.assign(1)

    def __call__(
        self, inputs: Any, training: Any, weights: Mapping[str, Any], **_: Any
    ) -> Any:
        """Returns the activation on the grid of the width in force."""
        tracer = active_tracer()
        if tracer is not None:
            return tracer.activation(self, inputs)
        if not training:
            return tf.cond(
                self.initialized > 0,
                lambda: self.fake_quantize(inputs),
                lambda: tf.identity(inputs),
            )

        def initialize() -> Any:
            # A ReLU of its own, or the one before would be computed in every step.
            self.initialize(inputs if self.signed else tf.nn.relu(_before_relu(inputs)))
            return tf.constant(1)

        initialized = tf.cond(self.initialized > 0, lambda: tf.constant(1), initialize)
        with tf.control_dependencies([initialized]):
            return self.fake_quantize(inputs, training=True)

    def fake_quantize(self, x: Any, *, training: bool = False) -> Any:
        """Returns the activation on the grid of the width in force.

        In training by faster kernels, exact up to float32 rounding.
        """
        if training and not self.signed:
            x = _before_relu(x)
        return self._quantize(x, x.shape[1:].num_elements() or 1, fused=training)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "signed": self.signed,
            "trainable": self.trainable,
        }


@keras.utils.register_keras_serializable(package="matar_tf")
class SharedGridQuantizer(_Quantizer):
    """Quantizes a tensor on the grid that another layer's quantizer owns.

    Args:
      owner: Name of the policy entry that owns the grid.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._layer: Any = None

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Remembers the layer; the owner has the variables."""
        self._layer = weakref.ref(layer)
        return {}

    def resolve(self) -> ActivationQuantizer | None:
        """Returns the owner, if the graph is put together already."""
        return graph.find_owner(self._layer(), self.owner)

    def __call__(
        self, inputs: Any, training: Any, weights: Mapping[str, Any], **_: Any
    ) -> Any:
        """Returns the tensor on the owner's grid."""
        owner = self.resolve()
        if owner is None:
            return inputs
        tracer = active_tracer()
        if tracer is not None:
            return tracer.activation(owner, inputs)
        return tf.cond(
            owner.initialized > 0,
            lambda: owner.fake_quantize(inputs, training=bool(training)),
            lambda: tf.identity(inputs),
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"owner": self.owner}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SharedGridQuantizer:
        """Returns a quantizer made from what `get_config` returned."""
        return cls(**config)


@keras.utils.register_keras_serializable(package="matar_tf")
class FixedGridQuantizer(_Quantizer):
    """Quantizes to the 8-bit grid that TFLite fixes for sigmoid, softmax and tanh.

    Step 1/256 over 0 .. 255, or, if `signed`, 1/128 over -128 .. 127 (TFLite 8-bit
    quantization specification).

    Args:
      signed: Whether it is tanh's grid.
    """

    def __init__(self, signed: bool = False) -> None:
        self.signed = signed
        self.bits = (MAX_BITS,)
        self.initialized = tf.constant(1)
        self.row = tf.constant(0)

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Creates nothing: the grid is not learned."""
        return {}

    def resolve(self) -> FixedGridQuantizer:
        """Returns itself: it is the owner of its grid."""
        return self

    def step(self) -> Any:
        """Returns the step, a scalar."""
        return tf.constant(1.0 / 128.0 if self.signed else 1.0 / 256.0)

    def ranges(self) -> tuple[list[int], list[int]]:
        """Returns the lowest and the highest level, as lists of one."""
        low, high = activation_range(MAX_BITS, signed=self.signed)
        return [low], [high]

    def fake_quantize(self, x: Any) -> Any:
        """Returns the tensor on the grid; straight-through gradient."""
        (low,), (high,) = self.ranges()
        quantized = numerics.fake_quantize(
            x, self.step(), tf.constant(float(low)), tf.constant(float(high))
        )
        return x + tf.stop_gradient(quantized - x)

    def __call__(
        self, inputs: Any, training: Any, weights: Mapping[str, Any], **_: Any
    ) -> Any:
        """Returns the tensor on the fixed grid."""
        tracer = active_tracer()
        if tracer is not None:
            return tracer.fixed_grid(self, inputs)
        return self.fake_quantize(inputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"signed": self.signed}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FixedGridQuantizer:
        """Returns a quantizer made from what `get_config` returned."""
        return cls(**config)


@keras.utils.register_keras_serializable(package="matar_tf")
class PoolQuantizer(_Quantizer):
    """Rounds the output of an average pool onto the grid of the pool's input.

    Integer average pooling keeps scale and zero point and rounds the mean of the
    stored integers, halves away from zero. The stored integer of a level ``q`` is
    ``q + z``, so this rounds ``|q + z|`` half up.
    """

    def __init__(self) -> None:
        self._layer: Any = None

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Remembers the layer; an average pool has no variables of its own."""
        self._layer = weakref.ref(layer)
        return {}

    def source(self) -> ActivationQuantizer | None:
        """Returns the quantizer of the pool's input, if the graph knows it."""
        return graph.input_quantizer(self._layer())

    def __call__(
        self, inputs: Any, training: Any, weights: Mapping[str, Any], **_: Any
    ) -> Any:
        """Returns the pooled tensor on the grid of the pool's input."""
        tracer = active_tracer()
        if tracer is not None:
            return tracer.average_pool(self, inputs)
        return self.round_to_grid(inputs)

    def round_to_grid(self, x: Any) -> Any:
        """Returns a pooled tensor on the grid of the pool's input."""
        source = self.source()
        if source is None:
            return x
        return tf.cond(
            source.initialized > 0,
            lambda: _round_pooled(x, source),
            lambda: tf.identity(x),
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments: none."""
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PoolQuantizer:
        """Returns a quantizer made from what `get_config` returned."""
        return cls(**config)


@keras.utils.register_keras_serializable(package="matar_tf")
class BiasQuantizer(_Quantizer):
    """Rounds a bias onto the grid of the integer accumulator, in evaluation only.

    The grid is ``s_in * s_w[c]``: the step of the layer's input times that of its
    kernel, the unit in which n-bit hardware accumulates.
    """

    def __init__(self) -> None:
        self._layer: Any = None

    @property
    def layer(self) -> Any:
        """The Keras layer that this quantizer was built in."""
        return self._layer()

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Remembers the layer; a bias has no variables of its own."""
        self._layer = weakref.ref(layer)
        return {}

    def __call__(
        self, inputs: Any, training: Any, weights: Mapping[str, Any], **_: Any
    ) -> Any:
        """Returns the bias, rounded if not in training."""
        tracer = active_tracer()
        if tracer is not None:
            return tracer.bias(self, inputs)
        return inputs if training else snap_bias(inputs, self._layer())

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments: none."""
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BiasQuantizer:
        """Returns a quantizer made from what `get_config` returned."""
        return cls(**config)


def snap_bias(bias: Any, layer: Any, scale: Any = None) -> Any:
    """Rounds a bias onto the accumulator grid of a wrapped layer.

    Args:
      bias: Shape ``[channels]``.
      layer: The wrapped convolution or dense layer whose output the bias is added to.
      scale: Factors of a folded batch norm, ``[channels]``, or None.

    Returns:
      The bias on the grid ``s_in * s_w * |scale|``; the bias itself while the
      model is being put together, or where kernel or input are not quantized.
    """
    kernel, source = graph.kernel_quantizer(layer), graph.input_quantizer(layer)
    if kernel is None or source is None:
        return bias
    grid = source.step() * tf.reshape(kernel.step(), (-1,))
    if scale is not None:
        # A channel whose scale is 0 passes nothing on; its grid is unscaled.
        grid = grid * tf.where(tf.equal(scale, 0.0), tf.ones_like(scale), tf.abs(scale))
    snapped = tf.floor(bias / grid + 0.5) * grid
    return tf.where(source.initialized > 0, snapped, bias)


def _round_pooled(x: Any, source: ActivationQuantizer) -> Any:
    qmins, qmaxs = source.ranges()
    # A signed tensor has passed a clamp, which moves its range to the bottom of int8.
    zero_points = [
        -128 - qmin if source.signed else 127 - qmax
        for qmin, qmax in zip(qmins, qmaxs, strict=True)
    ]
    offset = tf.gather(tf.constant(zero_points, tf.float32), source.row)
    step = source.step()
    stored = x / step + offset
    # The mean of integers over an even window hits halves exactly; float noise
    # must not decide them.
    half = tf.floor(2.0 * stored + 0.5) / 2.0
    stored = tf.where(tf.abs(stored - half) < 1e-3, half, stored)
    rounded = tf.sign(stored) * tf.floor(tf.abs(stored) + 0.5)
    return x + tf.stop_gradient((rounded - offset) * step - x)


def _before_relu(x: Any) -> Any:
    """Returns what a ReLU was given, if `x` is what it made of that, or `x`.

    A grid without negative levels cuts off what the ReLU does, and its gradient too.
    In a traced graph the ReLU then has no reader, and is not computed.
    """
    if tf.is_symbolic_tensor(x) and x.op.type == "Relu":
        return x.op.inputs[0]
    return x
