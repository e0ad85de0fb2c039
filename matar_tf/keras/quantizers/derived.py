"""tfmot quantizers that learn nothing: their grids follow from others, or are fixed."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from matar_tf.keras._compat import KerasLayer, Shape, Tensor, keras, tf, tfmot
from matar_tf.keras.quantizers import fake_quantize, wrapper
from matar_tf.keras.quantizers.accumulators import snap_bias, zero_point
from matar_tf.keras.quantizers.grids import ActivationGrid, LearnedGrid
from matar_tf.keras.quantizers.rounding import as_kernels_round
from matar_tf.keras.quantizers.tracing import FloatTracer, active_tracer
from matar_tf.layer_kinds import Rounding
from matar_tf.parameters import activation_range
from matar_tf.policy import MAX_BITS
from matar_tf.scales import POWER_OF_TWO
from matar_tf.wide import WIDE_RANGE

__all__ = [
    "INPUT_GRID_QUANTIZERS",
    "BiasQuantizer",
    "BlendQuantizer",
    "FixedGridQuantizer",
    "MeanQuantizer",
    "PoolQuantizer",
    "ReluQuantizer",
    "SharedGridQuantizer",
]

_Quantizer: Any = tfmot.quantization.keras.quantizers.Quantizer
_FINEST_BLEND = 256.0  # both axes 8 times as large: weights of 1/16 times 1/16


@keras.utils.register_keras_serializable(package="matar_tf")
class SharedGridQuantizer(_Quantizer):
    """Quantizes a tensor on the grid that another layer's quantizer owns.

    Where that layer joins this tensor with others, it quantizes it as well: here it is
    rounded in evaluation alone, by the rule of its own kernel.

    Args:
      owner: Name of the policy entry that owns the grid.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._layer: Any = None

    def build(
        self, tensor_shape: Shape, name: str, layer: KerasLayer
    ) -> dict[str, Tensor]:
        """Remembers the layer; the owner has the variables."""
        self._layer = weakref.ref(layer)
        wrapper.remember_wrapper(layer)  # a batch norm asks for the layer above it
        return {}

    def resolve(self) -> LearnedGrid | None:
        """Returns the owner, if the graph is put together already."""
        return wrapper.find_owner(self._layer(), self.owner)

    def __call__(
        self, inputs: Tensor, training: Any, weights: Mapping[str, Tensor], **_: Any
    ) -> Tensor:
        """Returns the tensor on the owner's grid."""
        owner = self.resolve()
        if owner is None:
            return inputs
        tracer = active_tracer()
        is_joined = wrapper.joins(owner.layer, self._layer())
        if is_joined and (training or isinstance(tracer, FloatTracer)):
            return inputs
        if isinstance(tracer, FloatTracer):
            return tracer.activation(owner, inputs)

        def exact() -> Tensor:
            return as_kernels_round(inputs, self._layer(), owner)

        if tracer is not None:
            return tracer.activation(owner, exact())
        return tf.cond(
            owner.initialized > 0,
            lambda: (
                owner.fake_quantize(inputs, training=True)
                if training
                else owner.fake_quantize(exact())
            ),
            lambda: tf.identity(inputs),
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"owner": self.owner}


@keras.utils.register_keras_serializable(package="matar_tf")
class FixedGridQuantizer(_Quantizer):
    """Quantizes to the 8-bit grid that TFLite fixes for sigmoid, softmax and tanh.

    Step 1/256 over 0 .. 255, or, if `signed`, 1/128 over -128 .. 127 (TFLite 8-bit
    quantization specification); 1/32768 where what the layer reads has 16 bits.

    Args:
      signed: Whether it is tanh's grid.
    """

    def __init__(self, signed: bool = False) -> None:
        self.signed = signed
        self.bits = (MAX_BITS,)
        self.scale = POWER_OF_TWO
        self.entry = ""  # no policy chooses its width
        self.initialized = tf.constant(1)
        self._layer: Any = None

    def build(
        self, tensor_shape: Shape, name: str, layer: KerasLayer
    ) -> dict[str, Tensor]:
        """Remembers the layer: the grid is not learned."""
        self._layer = weakref.ref(layer)
        return {}

    @property
    def row(self) -> Tensor:
        """0, or 1 where 16 bits are in force."""
        return tf.cast(self.is_wide(), tf.int32)

    def is_wide(self) -> Tensor:
        """Returns whether 16 bits are in force."""
        layer = None if self._layer is None else self._layer()
        source = None if layer is None else wrapper.input_quantizer(layer)
        return tf.constant(False) if source is None else source.is_wide()

    def resolve(self) -> FixedGridQuantizer:
        """Returns itself: it is the owner of its grid."""
        return self

    def step(self) -> Tensor:
        """Returns the step, a scalar."""
        narrow = 1.0 / 128.0 if self.signed else 1.0 / 256.0
        return tf.where(self.is_wide(), 1.0 / (1.0 + WIDE_RANGE[1]), narrow)

    def ranges(self) -> tuple[list[int], list[int]]:
        """Returns the lowest and the highest level, as lists of one."""
        low, high = activation_range(MAX_BITS, signed=self.signed)
        return [low], [high]

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Returns the tensor on the grid; straight-through gradient."""
        ends = (
            tf.where(self.is_wide(), float(wide), float(narrow))
            for wide, (narrow,) in zip(WIDE_RANGE, self.ranges(), strict=True)
        )
        quantized = fake_quantize.fake_quantize(x, self.step(), *ends)
        return x + tf.stop_gradient(quantized - x)

    def __call__(
        self, inputs: Tensor, training: Any, weights: Mapping[str, Tensor], **_: Any
    ) -> Tensor:
        """Returns the tensor on the fixed grid."""
        tracer = active_tracer()
        if tracer is not None:
            return tracer.fixed_grid(self, inputs)
        return self.fake_quantize(inputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"signed": self.signed}


class _InputGridQuantizer(_Quantizer):
    """Rounds the output of a layer onto the grid of the layer's input."""

    def __init__(self) -> None:
        self._layer: Any = None

    def build(
        self, tensor_shape: Shape, name: str, layer: KerasLayer
    ) -> dict[str, Tensor]:
        """Remembers the layer; there are no variables of its own."""
        self._layer = weakref.ref(layer)
        return {}

    def source(self) -> ActivationGrid | None:
        """Returns the quantizer of the layer's input, if the graph knows it."""
        return wrapper.input_quantizer(self._layer())

    def __call__(
        self, inputs: Tensor, training: Any, weights: Mapping[str, Tensor], **_: Any
    ) -> Tensor:
        """Returns the tensor on the grid of the layer's input."""
        tracer = active_tracer()
        if tracer is not None:
            return tracer.input_grid(self, inputs)
        return self.round_to_grid(inputs)

    def round_to_grid(self, x: Tensor) -> Tensor:
        """Returns the tensor on the grid of the layer's input."""
        source = self.source()
        if source is None:
            return x
        return tf.cond(
            source.initialized > 0,
            lambda: x + tf.stop_gradient(self._rounded(x, source) - x),
            lambda: tf.identity(x),
        )

    def _rounded(self, x: Tensor, source: ActivationGrid) -> Tensor:
        raise AssertionError("a subclass says how its operation rounds")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments: none."""
        return {}


@keras.utils.register_keras_serializable(package="matar_tf")
class PoolQuantizer(_InputGridQuantizer):
    """Rounds the output of an average pool onto the grid of the pool's input.

    Integer average pooling keeps scale and zero point and rounds the mean of the
    stored integers, halves away from zero. The stored integer of a level ``q`` is
    ``q + z``, so this rounds ``|q + z|`` half up.
    """

    def _rounded(self, x: Tensor, source: ActivationGrid) -> Tensor:
        return _round_pooled(x, source)


@keras.utils.register_keras_serializable(package="matar_tf")
class BlendQuantizer(_InputGridQuantizer):
    """Rounds an image enlarged by powers of two onto the grid of what it was.

    XNNPACK blends levels by weights that are multiples of a power of two, exact for
    factors of 2, 4 and 8, and rounds halves up.
    """

    def _rounded(self, x: Tensor, source: ActivationGrid) -> Tensor:
        step = source.step()
        # Blends of two axes are whole multiples, but for float noise.
        levels = tf.round(x / step * _FINEST_BLEND) / _FINEST_BLEND
        return tf.floor(levels + 0.5) * step


@keras.utils.register_keras_serializable(package="matar_tf")
class MeanQuantizer(_InputGridQuantizer):
    """Rounds the output of a global average pool onto the grid of the pool's input.

    XNNPACK's mean sums the stored integers, multiplies by ``1 / count`` and adds what
    the zero points make, in float32, and rounds halves to even.
    """

    def _rounded(self, x: Tensor, source: ActivationGrid) -> Tensor:
        return _round_mean(x, source, self._layer().input_shape[1:-1])


@keras.utils.register_keras_serializable(package="matar_tf")
class ReluQuantizer(_InputGridQuantizer):
    """Puts what a ReLU makes of a quantized tensor on the grid of that tensor.

    The integer ReLU keeps scale and zero point and cuts off what is below the zero
    point; a ReLU6 also what is above the level nearest to 6.
    """

    def _rounded(self, x: Tensor, source: ActivationGrid) -> Tensor:
        return source.fake_quantize(x)


@keras.utils.register_keras_serializable(package="matar_tf")
class BiasQuantizer(_Quantizer):
    """Rounds a bias onto the grid of the integer accumulator, in evaluation only.

    The grid is ``s_in * s_w[c]``: the step of the layer's input times that of its
    kernel, the unit in which n-bit hardware accumulates.
    """

    def __init__(self) -> None:
        self._layer: Any = None

    @property
    def layer(self) -> KerasLayer:
        """The Keras layer that this quantizer was built in."""
        return self._layer()

    def build(
        self, tensor_shape: Shape, name: str, layer: KerasLayer
    ) -> dict[str, Tensor]:
        """Remembers the layer; a bias has no variables of its own."""
        self._layer = weakref.ref(layer)
        return {}

    def snap(self, x: Tensor) -> Tensor:
        """Returns the bias on the grid."""
        return snap_bias(x, self._layer())

    def __call__(
        self, inputs: Tensor, training: Any, weights: Mapping[str, Tensor], **_: Any
    ) -> Tensor:
        """Returns the bias, rounded if not in training."""
        tracer = active_tracer()
        if tracer is not None:
            return tracer.bias(self, inputs)
        return inputs if training else self.snap(inputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments: none."""
        return {}


def _round_mean(x: Tensor, source: ActivationGrid, sizes: Sequence[int]) -> Tensor:
    if None in sizes:  # cannot be packaged
        return source.fake_quantize(x)
    count = np.float32(math.prod(sizes))
    share = np.float32(1.0) / count
    offset, step = zero_point(source), source.step()
    # The sum of the stored integers, which are whole numbers but for float noise.
    total = tf.round(x / step * count) + offset * count
    stored = total * share + (offset - offset * count * share)
    return (tf.round(stored) - offset) * step


def _round_pooled(x: Tensor, source: ActivationGrid) -> Tensor:
    offset, step = zero_point(source), source.step()
    stored = x / step + offset
    # The mean of integers over an even window hits halves exactly; float noise
    # must not decide them.
    half = tf.floor(2.0 * stored + 0.5) / 2.0
    stored = tf.where(tf.abs(stored - half) < 1e-3, half, stored)
    rounded = tf.sign(stored) * tf.floor(tf.abs(stored) + 0.5)
    return (rounded - offset) * step


# By the rule of a kernel that writes on the grid of its input.
INPUT_GRID_QUANTIZERS: Final[Mapping[Rounding, Any]] = MappingProxyType(
    {
        Rounding.BLEND: BlendQuantizer,
        Rounding.MEAN: MeanQuantizer,
        Rounding.POOL: PoolQuantizer,
        Rounding.RELU: ReluQuantizer,
    }
)
