"""What a packaged network computes in Keras, tensor by tensor."""

from __future__ import annotations

import numpy as np

from matar_tf.artifact import Artifact
from matar_tf.keras._compat import Tensor, tf
from matar_tf.keras.packaging.network import load_network
from matar_tf.keras.policies import set_policy
from matar_tf.keras.quantizers.grids import InputGrid, LearnedGrid
from matar_tf.keras.quantizers.tracing import Tracer, tracing
from matar_tf.named_arrays import Arrays, each
from matar_tf.policy import Policy

__all__ = ["keras_tensors"]


class _Recorder(Tracer):
    """A tracer that evaluates as usual and keeps every quantized activation."""

    def __init__(self) -> None:
        self.tensors: dict[str, list[np.ndarray]] = {}

    def activation(self, quantizer: LearnedGrid, x: Tensor) -> Tensor:
        return self._kept(quantizer.entry, super().activation(quantizer, x))

    def input_grid(self, quantizer: InputGrid, x: Tensor) -> Tensor:
        source = quantizer.source()
        entry = "" if source is None else source.entry
        return self._kept(entry, super().input_grid(quantizer, x))

    def _kept(self, entry: str, x: Tensor) -> Tensor:
        if entry:  # a fixed grid has none
            self.tensors.setdefault(entry, []).append(x.numpy())
        return x


def keras_tensors(
    artifact: Artifact, policy: Policy, samples: Arrays
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
        model(each(tf.constant, samples), training=False)
    return recorder.tensors
