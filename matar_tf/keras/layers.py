"""Keras layers that a multi-bitwidth model needs beside tfmot's wrapper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matar_tf.keras import graph
from matar_tf.keras._compat import in_keras_format, keras, tf
from matar_tf.keras.quantizers import ActivationQuantizer, snap_bias
from matar_tf.keras.tracing import active_tracer
from matar_tf.policy import ALL_BITS

__all__ = ["InputQuantize", "MultiBitBatchNormalization"]

_KERAS_FORMAT = (
    "Expected the path of an HDF5 file ('x.h5'), of a SavedModel directory, or of a "
    "TensorFlow checkpoint, got the Keras v3 format ('.keras', '.weights.h5'), from "
    "which tfmot's quantization wrappers cannot be rebuilt; save to one of the others."
)


class _RefusesKerasFormat:
    """Stops `model.save("x.keras")` with the reason, before the file is begun.

    tfmot's wrapper cannot be rebuilt from a ``.keras`` file: the file stores
    variables per tracked object, and the wrapper tracks those of its inner layer a
    second time. Every multi-bitwidth model holds an `InputQuantize`, so refusing here
    refuses the model.
    """

    def get_config(self) -> dict[str, Any]:
        """Returns the config.

        Raises:
          NotImplementedError: If it is for a ``.keras`` file, not begun yet.
        """
        if in_keras_format():
            raise NotImplementedError(_KERAS_FORMAT)
        config: Any = super()
        return config.get_config()

    def save_own_variables(self, store: Any) -> None:
        """Raises; called only while a ``.weights.h5`` file is written.

        Raises:
          NotImplementedError: Always.
        """
        raise NotImplementedError(_KERAS_FORMAT)


@keras.utils.register_keras_serializable(package="matar_tf")
class InputQuantize(_RefusesKerasFormat, keras.layers.Layer):
    """Quantizes the input of the network.

    Args:
      entry: Name of the policy entry: the name of the network's input.
      bits: Allowed widths, ascending.
      signed: Whether the samples have values below 0.
    """

    def __init__(
        self,
        entry: str,
        bits: Sequence[int] = ALL_BITS,
        signed: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.entry = entry
        self.multi_bit_quantizers = (ActivationQuantizer(bits, signed),)
        self._variables: dict[str, Any] = {}

    def build(self, input_shape: Any) -> None:
        """Creates the quantizer's variables."""
        self._variables = self.multi_bit_quantizers[0].build(input_shape, "input", self)
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Returns the quantized samples."""
        if training is None:
            training = keras.backend.learning_phase()
        return self.multi_bit_quantizers[0](
            inputs, bool(training), weights=self._variables
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        quantizer = self.multi_bit_quantizers[0]
        return {
            **super().get_config(),
            "entry": self.entry,
            "bits": list(quantizer.bits),
            "signed": quantizer.signed,
        }


@keras.utils.register_keras_serializable(package="matar_tf")
class MultiBitBatchNormalization(keras.layers.Layer):
    """Batch norm that knows the bit-widths of the layer whose output it normalises.

    A convolution with 2-bit weights has other output statistics than one with 8-bit
    weights, and so it is with the bits of its input; one shared set of statistics fits
    none. Scale and shift are learned per width of the weights; means and variances are
    kept per width of the weights and of the input. In evaluation the shift is
    rounded to the grid of the integer accumulator, as in the deployed model.

    Formula: ``a = gamma / sqrt(variance + epsilon)``,
    ``y = a * x + (beta - mean * a)``; in training with the mean and variance of the
    batch.

    Args:
      entry: Name of the policy entry: the layer whose output is normalised.
      bits: Allowed widths of that layer's weights, ascending.
      input_entry: Name of the policy entry of that layer's input.
      input_bits: Allowed widths of that layer's input, ascending; empty to keep no
        statistics apart by them.
      momentum: Of the moving averages.
      epsilon: Added to the variance.
      center: Whether there is a learned shift.
      scale: Whether there is a learned scale.
    """

    def __init__(
        self,
        entry: str,
        bits: Sequence[int] = ALL_BITS,
        input_entry: str = "",
        input_bits: Sequence[int] = (),
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.entry = entry
        self.bits = tuple(int(width) for width in bits)
        self.input_entry = input_entry
        self.input_bits = tuple(int(width) for width in input_bits)
        self.momentum = momentum
        self.epsilon = epsilon
        self.center = center
        self.scale = scale

    def build(self, input_shape: Any) -> None:
        """Creates the banks.

        Scale and shift: ``[len(bits), channels]``. Statistics: ``[len(bits) *
        max(len(input_bits), 1), channels]``, the width of the input changing fastest.
        """
        shape = (len(self.bits), int(input_shape[-1]))
        statistics = (shape[0] * max(len(self.input_bits), 1), shape[1])
        self.row = self.add_weight(
            "bits_row",
            shape=(),
            dtype=tf.int32,
            initializer=keras.initializers.Constant(len(self.bits) - 1),
            trainable=False,
        )
        self.input_row = None
        if self.input_bits:
            self.input_row = self.add_weight(
                "input_bits_row",
                shape=(),
                dtype=tf.int32,
                initializer=keras.initializers.Constant(len(self.input_bits) - 1),
                trainable=False,
            )
        self.gamma = self.add_weight(
            "gamma", shape, initializer="ones", trainable=self.scale
        )
        self.beta = self.add_weight(
            "beta", shape, initializer="zeros", trainable=self.center
        )
        self.moving_mean = self.add_weight(
            "moving_mean", statistics, initializer="zeros", trainable=False
        )
        self.moving_variance = self.add_weight(
            "moving_variance", statistics, initializer="ones", trainable=False
        )
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = None) -> Any:
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

    def evaluate(self, inputs: Any) -> Any:
        """Returns the normalised tensor with the statistics of the rows in force."""
        scale, offset = self.folded()
        above = graph.producer(self)
        if above is not None:
            offset = snap_bias(offset, above, scale)
        return inputs * scale + offset

    def statistics_row(self) -> Any:
        """Returns the row of the statistics in force."""
        if self.input_row is None:
            return tf.identity(self.row)
        return self.row * len(self.input_bits) + self.input_row

    def folded(self, row: Any = None, input_row: Any = 0) -> tuple[Any, Any]:
        """Returns ``(a, b)`` of ``y = a * x + b`` in evaluation: ``[channels]``.

        Args:
          row: Which width of the weights; None for the policy in force.
          input_row: Which width of the input, if a row is given.
        """
        if row is None:
            row, place = self.row, self.statistics_row()
        else:
            place = row * max(len(self.input_bits), 1) + input_row
        gamma, beta = tf.gather(self.gamma, row), tf.gather(self.beta, row)
        mean = tf.gather(self.moving_mean, place)
        variance = tf.gather(self.moving_variance, place)
        scale = gamma / tf.sqrt(variance + self.epsilon)
        return scale, beta - mean * scale

    def normalize_batch(self, inputs: Any) -> tuple[Any, Any, Any]:
        """Returns the tensor normalised with its own statistics, mean and variance."""
        gamma, beta = tf.gather(self.gamma, self.row), tf.gather(self.beta, self.row)
        if len(inputs.shape) == 4:
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

    def _update(self, mean: Any, variance: Any) -> None:
        place = self.statistics_row()
        for moving, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            change = (tf.gather(moving, place) - value) * (1.0 - self.momentum)
            moving.scatter_sub(tf.IndexedSlices(change, place))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "entry": self.entry,
            "bits": list(self.bits),
            "input_entry": self.input_entry,
            "input_bits": list(self.input_bits),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
        }
