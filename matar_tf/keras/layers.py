"""Keras layers that a multi-bitwidth model needs beside tfmot's wrapper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from matar_tf.keras._compat import Shape, Tensor, keras, tf
from matar_tf.keras.borders import Quantize
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.accumulators import snap_affine
from matar_tf.keras.quantizers.learned import ActivationQuantizer
from matar_tf.keras.quantizers.tracing import active_tracer
from matar_tf.norms import norm_places, num_norm_rows
from matar_tf.policy import ALL_BITS, MAX_BITS, check_bits

__all__ = [
    "NOT_FINITE",
    "ChannelScale",
    "InputQuantize",
    "MultiBitBatchNormalization",
]

NOT_FINITE = (
    "Expected finite samples, got NaN or infinity in a batch of training; remove or "
    "mend them."
)
_TINY = 1e-20  # keeps a term of the variance from staying 0
_LEAST_VARIANCE = 1e-3  # of epsilon, which hides what is below


@keras.utils.register_keras_serializable(package="matar_tf")
class InputQuantize(Quantize):
    """Quantizes the input of the network.

    A step for 8 bits alone is not learned: the least squared error of the samples is as
    good, and the first layer then needs no gradient of its input.

    Args:
      entry: Name of the policy entry: the name of the network's input.
      bits: Allowed widths, ascending.
      signed: Whether the samples have values below 0.
      scale: Which steps there are: ``free`` ones, or ``power_of_two``.
    """

    def _make_quantizer(
        self, bits: Sequence[int], signed: bool, scale: str
    ) -> ActivationQuantizer:
        is_learned = tuple(bits) != (MAX_BITS,)
        return ActivationQuantizer(bits, signed, is_learned, scale)

    def call(self, inputs: Tensor, training: Any = None) -> Tensor:
        """Returns the quantized samples."""
        if training is None:
            training = keras.backend.learning_phase()
        # One batch with NaN would leave nothing in any weight.
        if training and inputs.dtype.is_floating:
            inputs = tf.debugging.check_numerics(inputs, NOT_FINITE)
        return self.quantized(inputs, training)


@keras.utils.register_keras_serializable(package="matar_tf")
class MultiBitBatchNormalization(keras.layers.Layer):
    """Batch norm whose statistics follow the policy.

    A convolution with 2-bit weights has other output statistics than one with 8-bit
    weights, and so it is with the widths of what is before it; one shared set of
    statistics fits none. Mean and variance are added up from terms, as
    `matar_tf.norms.NormParameters` says. In evaluation the shift is rounded to
    the grid of the integer accumulator, as in the deployed model.

    Formula: ``a = abs(gamma) / sqrt(variance + epsilon)``,
    ``y = a * x + (beta - mean * a)``; in training with the mean and variance of the
    batch. No scale is negative: 2-bit weights have no ``2`` to make of a ``-2``.

    The terms learn by normalised least mean squares: each takes an equal share of what
    the moving average of one policy alone would change, of its logarithm for the
    variance. So the policy in force learns as in a plain batch norm.

    Args:
      entry: Name of the policy entry: the layer whose output is normalised.
      bits: Allowed widths of that layer's weights, ascending.
      context: Kind (``weights`` or ``activations``), name and widths of the entries
        before that layer that the statistics depend on, the nearest first.
      momentum: Of the moving averages.
      epsilon: Added to the variance.
      center: Whether there is a learned shift.
      scale: Whether there is a learned scale.
    """

    def __init__(
        self,
        entry: str,
        bits: Sequence[int] = ALL_BITS,
        context: Sequence[tuple[str, str, Sequence[int]]] = (),
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.entry = entry
        self.bits = tuple(check_bits(width, "batch norm") for width in bits)
        self.context = tuple(
            (str(kind), str(name), tuple(check_bits(one, str(name)) for one in widths))
            for kind, name, widths in context
        )
        self.momentum = momentum
        self.epsilon = epsilon
        self.center = center
        self.scale = scale

    @property
    def entries(self) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
        """Kind, name and widths of the entries that the statistics depend on."""
        return (("weights", self.entry, self.bits), *self.context)

    @property
    def num_paired_rows(self) -> int:
        """Number of rows of the first term, which two entries choose from."""
        return num_norm_rows(self._sizes[:2])

    @property
    def _sizes(self) -> list[int]:
        return [len(bits) for _, _, bits in self.entries]

    def build(self, input_shape: Shape) -> None:
        """Creates the banks; see `matar_tf.norms.NormParameters`."""
        channels = int(input_shape[-1])
        # `norm_places` is affine in the rows; as one product it takes few kernels.
        sizes = self._sizes
        first = np.array(norm_places(sizes, [0] * len(sizes)), np.int32)
        units = np.eye(len(sizes), dtype=int).tolist()
        steps = [np.array(norm_places(sizes, unit)) - first for unit in units]
        self._place_map = np.stack(steps, axis=1).astype(np.int32), first
        statistics = (num_norm_rows(self._sizes), channels)
        self.rows = self.add_weight(
            "bits_rows",
            shape=(len(self._sizes),),
            dtype=tf.int32,
            initializer=lambda *_, **__: tf.constant(self._sizes) - 1,
            trainable=False,
        )
        self.gamma = self.add_weight(
            "gamma", (channels,), initializer="ones", trainable=self.scale
        )
        self.beta = self.add_weight(
            "beta", (channels,), initializer="zeros", trainable=self.center
        )
        self.moving_mean = self.add_weight(
            "moving_mean", statistics, initializer="zeros", trainable=False
        )
        self.moving_variance = self.add_weight(
            "moving_variance", statistics, initializer="ones", trainable=False
        )
        super().build(input_shape)

    def call(self, inputs: Tensor, training: Any = None) -> Tensor:
        """Returns the normalised tensor, channels last."""
        tracer = active_tracer()
        if tracer is not None:
            return tracer.batch_norm(self, inputs)
        if training is None:
            training = keras.backend.learning_phase()
        if training and self.trainable:
            outputs, mean, variance = self.normalize_batch(inputs)
            self._update(mean, variance)
            return outputs
        return self.evaluate(inputs)

    def evaluate(self, inputs: Tensor) -> Tensor:
        """Returns the normalised tensor with the statistics of the policy in force."""
        scale, offset = self.folded()
        above = wrapper.multiplier(self)
        if above is not None:
            scale, offset = snap_affine(scale, offset, above)
        return inputs * scale + offset

    def places(self) -> Tensor:
        """Returns the row in force of each term of the statistics, ``[num_terms]``."""
        steps, first = self._place_map
        return tf.reduce_sum(self.rows * steps, axis=1) + first

    def folded(self) -> tuple[Tensor, Tensor]:
        """Returns ``(a, b)`` of ``y = a * x + b`` in evaluation: ``[channels]``."""
        return self.folded_with(*self.statistics())

    def folded_with(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what `folded` does for given statistics, float64.

        In float64 until the end, as `NormParameters.folded`.
        """
        gamma, beta = (tf.cast(one, tf.float64) for one in (self.gamma, self.beta))
        scale = tf.abs(gamma) / tf.sqrt(variance + self.epsilon)
        offset = beta - mean * scale
        return tf.cast(scale, tf.float32), tf.cast(offset, tf.float32)

    def normalize_batch(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the tensor normalised with its own statistics, mean and variance.

        On several replicas those are of all of the batch.
        """
        # Never negative: the sign would go into kernels, where -2 has no opposite.
        # Not `tf.abs`, whose gradient is 0 at 0: residual blocks start from there.
        gamma, beta = (tf.convert_to_tensor(one) for one in (self.gamma, self.beta))
        gamma = tf.where(gamma < 0.0, -gamma, gamma)
        replica: Any = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            mean, variance, correction = _moments_of_all(inputs, replica)
            outputs = tf.nn.batch_normalization(
                inputs, mean, variance, beta, gamma, self.epsilon
            )
            if len(inputs.shape) == 4:  # as the fused kernel tells it
                variance *= correction
        elif len(inputs.shape) == 4:
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs, gamma, beta, epsilon=self.epsilon, is_training=True
            )
        else:
            axes = list(range(len(inputs.shape) - 1))
            mean, variance = tf.nn.moments(inputs, axes)
            outputs = tf.nn.batch_normalization(
                inputs, mean, variance, beta, gamma, self.epsilon
            )
        return outputs, mean, variance

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Returns mean and variance under the policy in force, float64."""
        places = self.places()
        means = tf.cast(tf.gather(self.moving_mean, places), tf.float64)
        variances = tf.cast(tf.gather(self.moving_variance, places), tf.float64)
        return tf.reduce_sum(means, axis=0), tf.reduce_prod(variances, axis=0)

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        places = self.places()
        num_terms = places.shape[0]
        rate = 1.0 - self.momentum
        means = tf.gather(self.moving_mean, places)
        change = (mean - tf.reduce_sum(means, axis=0)) * (rate / num_terms)
        self.moving_mean.scatter_update(tf.IndexedSlices(means + change, places))
        variances = tf.gather(self.moving_variance, places)
        known = tf.reduce_prod(tf.cast(variances, tf.float64), axis=0)
        # Without the floor a channel that was dead would come back by a huge factor.
        least = max(self.epsilon * _LEAST_VARIANCE, _TINY)
        ratio = tf.maximum(variance, least) / tf.cast(
            tf.maximum(known, least), tf.float32
        )
        factor = (1.0 + rate * (ratio - 1.0)) ** (1.0 / num_terms)
        terms = tf.maximum(variances * factor, _TINY)
        self.moving_variance.scatter_update(tf.IndexedSlices(terms, places))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "entry": self.entry,
            "bits": list(self.bits),
            "context": [[kind, name, list(bits)] for kind, name, bits in self.context],
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
        }


def _moments_of_all(inputs: Tensor, replica: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean and variance of what all replicas have of a batch: ``[channels]``.

    Also what makes the variance an unbiased one. In two passes: the difference of two
    sums would be noise where the mean is large.
    """
    axes = list(range(len(inputs.shape) - 1))
    sum_of: Any = tf.distribute.ReduceOp.SUM
    count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
    total, count = replica.all_reduce(sum_of, [tf.reduce_sum(inputs, axes), count])
    mean = total / count
    squares = tf.reduce_sum(tf.math.squared_difference(inputs, mean), axes)
    variance = replica.all_reduce(sum_of, squares) / count
    return mean, variance, count / tf.maximum(count - 1.0, 1.0)


@keras.utils.register_keras_serializable(package="matar_tf")
class ChannelScale(keras.layers.Layer):
    """Multiplies each channel by a constant, and adds one: ``y = k * x + b``.

    What a batch norm is folded into where no convolution is before it, and what
    arithmetic with constants becomes. The integer model has a depthwise convolution of
    one pixel in its place: a kernel of one value a channel lies on the grid of any
    width, so nothing is lost. Neither `k` nor `b` is learned.

    Args:
      use_bias: Whether something is added.
    """

    def __init__(self, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_bias = use_bias

    def build(self, input_shape: Shape) -> None:
        """Creates ``depthwise_kernel``, ``[1, 1, channels, 1]``, and ``bias``."""
        channels = int(input_shape[-1])
        self.depthwise_kernel = self.add_weight(
            "depthwise_kernel", (1, 1, channels, 1), initializer="ones", trainable=False
        )
        if self.use_bias:
            self.bias = self.add_weight(
                "bias", (channels,), initializer="zeros", trainable=False
            )
        super().build(input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        """Returns the scaled tensor, channels last."""
        if active_tracer() is None:
            outputs = inputs * tf.reshape(self.depthwise_kernel, (-1,))
        else:  # the converter's, among others
            kernel = self.depthwise_kernel
            outputs = tf.nn.depthwise_conv2d(inputs, kernel, [1, 1, 1, 1], "VALID")
        return tf.nn.bias_add(outputs, self.bias) if self.use_bias else outputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "use_bias": self.use_bias}
