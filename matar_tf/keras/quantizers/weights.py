"""The tfmot quantizer of kernels, whose bit-width is a variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matar_tf.keras._compat import KerasLayer, Shape, Tensor, keras, tf
from matar_tf.keras.quantizers import fake_quantize, half_precision
from matar_tf.keras.quantizers.learned import MultiBitQuantizer
from matar_tf.keras.quantizers.tracing import active_tracer
from matar_tf.parameters import weight_range
from matar_tf.policy import ALL_BITS
from matar_tf.scales import FREE

__all__ = ["WeightQuantizer"]


@keras.utils.register_keras_serializable(package="matar_tf")
class WeightQuantizer(MultiBitQuantizer):
    """Quantizes a kernel with a zero point of 0, one step per width and channel.

    Levels ``-(2**(n - 1) - 1) .. 2**(n - 1) - 1``, at 2 bits ``-2 .. 1``. The steps
    start at the least squared error of the kernel that the layer has when it is built,
    those of a kernel of zeros at that of a kernel of variance ``1 / fan_in``.
    The gradient is that of `matar_tf.keras.quantizers.fake_quantize`.

    Args:
      bits: Allowed widths, ascending, each in 2..8.
      num_channel_axes: How many of the last axes are channels: 1 for kernels
        ``[..., out]``, 2 for depthwise kernels ``[h, w, in, multiplier]``.
      is_constant: Whether the kernel is one constant a channel, which the largest level
        holds: its steps are not learned.
      is_transposed: Whether the last two axes are to change places first, as in
        transposed convolutions, ``[h, w, out, in]``.
      per_channel: Whether each channel has a step of its own, or all have one.
      scale: Which steps there are: ``free`` ones, or ``power_of_two``.

    Attributes:
      name_in_layer: Name of the kernel of a layer in float, which may have several of
        one name in layers inside it; "" for that of a layer that multiplies integers.
    """

    kind = "weights"
    name_in_layer = ""

    @property
    def in_float(self) -> bool:
        """Whether the layer computes in float."""
        return bool(self.name_in_layer)

    def __init__(
        self,
        bits: Sequence[int] = ALL_BITS,
        num_channel_axes: int = 1,
        is_constant: bool = False,
        is_transposed: bool = False,
        per_channel: bool = True,
        scale: str = FREE,
    ) -> None:
        super().__init__(bits, scale)
        self.num_channel_axes = num_channel_axes
        self.is_constant = is_constant
        self.is_transposed = is_transposed
        self.per_channel = per_channel
        self._kernel: Tensor = None

    def ranges(self) -> tuple[list[int], list[int]]:
        """Returns the lowest and the highest level of each width."""
        pairs = [weight_range(bits) for bits in self.bits]
        return [low for low, _ in pairs], [high for _, high in pairs]

    def observe(self, kernel: Tensor) -> WeightQuantizer:
        """Remembers the variable whose values initialise the steps."""
        self._kernel = kernel
        return self

    def build(
        self, tensor_shape: Shape, name: str, layer: KerasLayer
    ) -> dict[str, Tensor]:
        """Creates the bank in `layer`; called by tfmot's wrapper."""
        *others, last = tuple(tensor_shape)
        shape = (*others[:-1], last, others[-1]) if self.is_transposed else tensor_shape
        channels = tuple(shape)[-self.num_channel_axes :]
        with tf.init_scope():
            if self._kernel is None:
                steps = tf.ones((len(self.bits), *channels))
            else:
                kernel = self._aligned(tf.convert_to_tensor(self._kernel))
                steps = self._first_steps(tf.reshape(kernel, (-1, *channels)))
            if not self.per_channel:
                steps = tf.reduce_max(steps, axis=range(1, len(steps.shape)))
            steps = steps.numpy()
        half_precision.train_in_half(layer)
        name = self.name_in_layer or name
        return self._build_bank(name, layer, steps, trainable=not self.is_constant)

    def _first_steps(self, kernel: Tensor) -> Tensor:
        """Returns steps, ``[len(bits), *channels]``, of ``[fan_in, *channels]``."""
        low, high = (tf.constant(one, tf.float32) for one in self.ranges())
        if self.is_constant:
            return fake_quantize.constant_steps(kernel, high, scale=self.scale)
        if not self.per_channel and tf.reduce_any(kernel != 0.0):
            values = tf.reshape(kernel, (-1,))
            return fake_quantize.optimal_steps(values, low, high, scale=self.scale)
        return fake_quantize.kernel_steps(kernel, low, high, scale=self.scale)

    def __call__(
        self, inputs: Tensor, training: Any, weights: Mapping[str, Tensor], **_: Any
    ) -> Tensor:
        """Returns the kernel on the grid of the width in force."""
        tracer = active_tracer()
        if tracer is not None:
            return tracer.weights(self, inputs)
        # Of a layer built under a mixed policy, which hides its variables, the value.
        return self.fake_quantize(tf.convert_to_tensor(inputs))

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Returns the kernel on the grid of the width in force."""
        x = self._aligned(x)
        channels = x.shape[-self.num_channel_axes :].num_elements()
        num_steps = channels if self.per_channel else 1
        elems_per_step = x.shape.num_elements() / num_steps
        return self._aligned(self._quantize(x, elems_per_step))

    def _aligned(self, kernel: Tensor) -> Tensor:
        """Returns a kernel with its channels on the last axes, or such a one as was."""
        return tf.linalg.matrix_transpose(kernel) if self.is_transposed else kernel

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = ("num_channel_axes", "is_constant", "is_transposed", "per_channel")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}
