"""What a packaged network computes in Keras, tensor by tensor."""

from __future__ import annotations

from typing import Any

import numpy as np

from matar_tf.artifact import Artifact
from matar_tf.keras._compat import tf
from matar_tf.keras.packaging.package import load_network
from matar_tf.keras.quantize import set_policy
from matar_tf.keras.quantizers.derived import snap_bias
from matar_tf.keras.quantizers.tracing import tracing
from matar_tf.policy import Policy

__all__ = ["keras_tensors"]


class _Recorder:
    """A tracer that evaluates as usual and keeps every quantized activation."""

    def __init__(self) -> None:
        self.tensors: dict[str, list[np.ndarray]] = {}

    def weights(self, quantizer: Any, x: Any) -> Any:
        return quantizer.fake_quantize(x)

    def bias(self, quantizer: Any, x: Any) -> Any:
        return snap_bias(x, quantizer.layer)

    def activation(self, quantizer: Any, x: Any) -> Any:
        return self._kept(quantizer.entry, quantizer.fake_quantize(x))

    def fixed_grid(self, quantizer: Any, x: Any) -> Any:
        return quantizer.fake_quantize(x)

    def input_grid(self, quantizer: Any, x: Any) -> Any:
        return self._kept(quantizer.source().entry, quantizer.round_to_grid(x))

    def _kept(self, entry: str, x: Any) -> Any:
        if entry:  # a fixed grid has none
            self.tensors.setdefault(entry, []).append(x.numpy())
        return x

    def batch_norm(self, layer: Any, x: Any) -> Any:
        return layer.evaluate(x)


def keras_tensors(
    artifact: Artifact, policy: Policy, samples: np.ndarray
) -> dict[str, list[np.ndarray]]:
    """Returns the Keras network's quantized activations, by activation entry.

    An entry has several where tensors share its grid (concatenation), in the order in
    which they are computed.

    Raises:
      ArtifactError: If the artifact holds no network.
    """
    model = load_network(artifact)
    set_policy(model, policy)
    recorder = _Recorder()
    with tracing(recorder):
        model.call(tf.constant(samples), training=False)
    return recorder.tensors
