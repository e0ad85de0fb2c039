"""A penalty that draws kernels towards what quantizes well."""

from __future__ import annotations

from matar_tf.keras._compat import Tensor, keras, tf

__all__ = ["KurtosisRegularizer"]


@keras.utils.register_keras_serializable(package="matar_tf")
class KurtosisRegularizer(keras.regularizers.Regularizer):
    """Draws the distribution of a kernel towards a uniform one, which quantizes best.

    ``rate * (kurtosis(kernel) - target)**2`` (KURE, Shkolnik et al., NeurIPS 2020). A
    plain Keras regularizer: give it to the layers of the float model.

    Args:
      rate: Factor on the penalty.
      target: Kurtosis aimed at; 1.8 is that of a uniform distribution, 3 of a normal.
    """

    def __init__(self, rate: float = 0.015, target: float = 1.8) -> None:
        self.rate = rate
        self.target = target

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the penalty of a kernel, a scalar."""
        mean, variance = tf.nn.moments(tf.reshape(x, (-1,)), [0])
        kurtosis = tf.reduce_mean(((x - mean) ** 2 / (variance + 1e-12)) ** 2)
        return self.rate * (kurtosis - self.target) ** 2

    def get_config(self) -> dict[str, float]:
        """Returns the constructor's arguments."""
        return {"rate": self.rate, "target": self.target}
