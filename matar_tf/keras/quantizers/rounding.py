"""Which quantizer rounds as the kernel of a layer kind does."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np

from matar_tf.keras._compat import KerasLayer, Shape, Tensor, keras, tf
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.derived import (
    BlendQuantizer,
    MeanQuantizer,
    PoolQuantizer,
    ReluQuantizer,
    SharedGridQuantizer,
)
from matar_tf.keras.quantizers.grids import ActivationGrid, LearnedGrid
from matar_tf.keras.quantizers.learned import ActivationQuantizer
from matar_tf.keras.quantizers.tracing import FloatTracer, active_tracer
from matar_tf.layer_kinds import Rounding
from matar_tf.operators import Grid

__all__ = [
    "ROUNDING_QUANTIZERS",
    "EvenQuantizer",
    "LeakyReluQuantizer",
    "SharedLeakyReluQuantizer",
    "TableQuantizer",
    "UpQuantizer",
]

_INT8_MAX = 127.0
_NOISE = 2.0**-14  # of a sum of two levels in float32, at most


@keras.utils.register_keras_serializable(package="matar_tf")
class EvenQuantizer(ActivationQuantizer):
    """Quantizes what a product makes, in evaluation as XNNPACK computes it.

    Its kernel rounds halves to even levels, which it meets where one step is a multiple
    of the other.
    """

    def fake_quantize(self, x: Tensor, *, training: bool = False) -> Tensor:
        """Returns the activation on the grid of the width in force."""
        outputs = super().fake_quantize(x, training=training)
        if training:
            return outputs
        qmin, qmax = (
            tf.gather(tf.constant(ends, tf.float32), self.row) for ends in self.ranges()
        )
        step = self.step()
        rounded = tf.clip_by_value(self._levels(x, step, qmax), qmin, qmax) * step
        return outputs + tf.stop_gradient(rounded - outputs)

    def _levels(self, x: Tensor, step: Tensor, _qmax: Tensor) -> Tensor:
        return tf.round(x / step)


@keras.utils.register_keras_serializable(package="matar_tf")
class UpQuantizer(EvenQuantizer):
    """Quantizes what a sum makes, in evaluation as XNNPACK computes it.

    Its kernel rounds halves up, where the float sum of them has noise.
    """

    def _levels(self, x: Tensor, step: Tensor, _qmax: Tensor) -> Tensor:
        return tf.floor(x / step + (0.5 + _NOISE))


@keras.utils.register_keras_serializable(package="matar_tf")
class TableQuantizer(EvenQuantizer):
    """Quantizes what an ELU makes, in evaluation as XNNPACK computes it.

    It makes a table of stored integers, in float32: the zero point is added before
    halves are rounded to even ones.
    """

    def _levels(self, x: Tensor, step: Tensor, qmax: Tensor) -> Tensor:
        zero_point = _INT8_MAX - qmax
        return tf.round(x * (1.0 / step) + zero_point) - zero_point


@keras.utils.register_keras_serializable(package="matar_tf")
class LeakyReluQuantizer(ActivationQuantizer):
    """Quantizes what a leaky ReLU makes, in evaluation as XNNPACK computes it.

    Its kernel multiplies the input's levels by the ratio of the two steps, below 0 also
    by the slope, both rounded to multiples of ``1 / 256``, and rounds halves up.
    Factors outside of ``1 / 256 .. 128`` go to the builtin kernel, which rounds twice.
    """

    def build(
        self, tensor_shape: Shape, name: str, layer: KerasLayer
    ) -> dict[str, Tensor]:
        """Creates the bank in `layer`, and remembers it."""
        self._layer = weakref.ref(layer)
        return super().build(tensor_shape, name, layer)

    def __call__(
        self, inputs: Tensor, training: Any, weights: Mapping[str, Tensor], **_: Any
    ) -> Tensor:
        """Returns the activation on the grid of the width in force."""
        if training or isinstance(active_tracer(), FloatTracer):
            return super().__call__(inputs, training, weights)
        return _evaluate(inputs, self, self._layer())


@keras.utils.register_keras_serializable(package="matar_tf")
class SharedLeakyReluQuantizer(SharedGridQuantizer):
    """As `LeakyReluQuantizer`, on the grid that another layer's quantizer owns."""

    def __call__(
        self, inputs: Tensor, training: Any, weights: Mapping[str, Tensor], **_: Any
    ) -> Tensor:
        """Returns the tensor on the owner's grid."""
        owner = self.resolve()
        if owner is None or training or isinstance(active_tracer(), FloatTracer):
            return super().__call__(inputs, training, weights)
        return _evaluate(inputs, owner, self._layer())


def _evaluate(x: Tensor, owner: LearnedGrid, layer: KerasLayer) -> Tensor:
    tracer, grid = active_tracer(), _LeakyReluGrid(owner, layer)
    if tracer is not None:
        return tracer.activation(cast("LearnedGrid", grid), x)
    return tf.cond(
        owner.initialized > 0,
        lambda: grid.fake_quantize(x),
        lambda: tf.identity(x),
    )


class _LeakyReluGrid:
    """A grid onto which a layer rounds; other layers that share it do not."""

    def __init__(self, owner: LearnedGrid, layer: KerasLayer) -> None:
        self._owner = owner
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner, name)

    def fake_quantize(self, x: Tensor, *, training: bool = False) -> Tensor:
        outputs = self._owner.fake_quantize(x, training=training)
        rounded = _round_leaky_relu(x, self._layer, self._owner, outputs)
        return outputs + tf.stop_gradient(rounded - outputs)


def _round_leaky_relu(
    x: Tensor, layer: KerasLayer, grid: ActivationGrid, otherwise: Tensor
) -> Tensor:
    """Returns what the kernel makes; `otherwise` where the input has no grid."""
    source = wrapper.input_quantizer(layer)
    if source is None:
        return otherwise
    slope = np.float32(wrapper.inner_layer(layer).alpha)
    step, ratio = source.step(), source.step() / grid.step()
    below = ratio * slope
    levels = tf.round(x / tf.where(x < 0.0, step * slope, step))
    coarse = tf.round(256.0 * tf.where(x < 0.0, below, ratio))
    is_taken = (tf.minimum(ratio, below) >= 1.0 / 256.0) & (
        tf.maximum(ratio, below) <= 128.0
    )
    rounded = tf.where(
        is_taken,
        tf.floor((levels * coarse + 128.0) / 256.0),
        tf.where(
            x < 0.0,
            _multiply_twice_rounded(levels, below),
            _multiply_twice_rounded(levels, ratio),
        ),
    )
    qmin, qmax = (
        tf.gather(tf.constant(ends, tf.float32), grid.row) for ends in grid.ranges()
    )
    return tf.clip_by_value(rounded, qmin, qmax) * grid.step()


def _multiply_twice_rounded(levels: Tensor, factor: Tensor) -> Tensor:
    """Multiplies as gemmlowp's reference: by the fraction, then by the power of two.

    The first product is rounded half up, the second half away from zero.
    """
    exponent = tf.bitwise.right_shift(tf.bitcast(factor, tf.int32), 23) - 126
    power = tf.pow(tf.constant(2.0, tf.float64), tf.cast(exponent, tf.float64))
    fraction = tf.cast(factor, tf.float64) / power
    products = tf.cast(levels, tf.float64) * fraction * tf.maximum(power, 1.0)
    high = tf.floor(products + 0.5)
    halved = tf.floor(tf.abs(high) * tf.minimum(power, 1.0) + 0.5)
    return tf.cast(tf.sign(high) * halved, tf.float32)


# By the grid that a kernel writes on. Others round to the nearest.
ROUNDING_QUANTIZERS: Final[Mapping[tuple[Grid, Rounding | None], Any]] = (
    MappingProxyType(
        {
            (Grid.INPUT, Rounding.BLEND): BlendQuantizer,
            (Grid.INPUT, Rounding.MEAN): MeanQuantizer,
            (Grid.INPUT, Rounding.POOL): PoolQuantizer,
            (Grid.INPUT, Rounding.RELU): ReluQuantizer,
            (Grid.OWN, Rounding.EVEN): EvenQuantizer,
            (Grid.OWN, Rounding.LEAKY_RELU): LeakyReluQuantizer,
            (Grid.OWN, Rounding.TABLE): TableQuantizer,
            (Grid.OWN, Rounding.UP): UpQuantizer,
            (Grid.SHARED, Rounding.LEAKY_RELU): SharedLeakyReluQuantizer,
        }
    )
)
