"""Comparing a file with what it should compute, layer by layer.

Three witnesses: the runtime (LiteRT), the NumPy simulator, which shares no code with
it, and, where TensorFlow is installed, the Keras network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from matar_tf.tflite._schema import load_model, schema
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.simulator import simulate_tensors

__all__ = ["LayerDifference", "Verification", "verify"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerDifference:
    """How far a tensor of the simulator is from that of the Keras network.

    Attributes:
      name: Activation entry of the tensor.
      share: Share of its elements on another level.
      max_levels: Largest difference in levels.
    """

    name: str
    share: float
    max_levels: int


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What the witnesses say.

    Attributes:
      runtime_share: Share of outputs on which runtime and simulator differ.
      layers: Differences from the Keras network in execution order; empty without it.
    """

    runtime_share: float
    layers: tuple[LayerDifference, ...]

    @property
    def first_difference(self) -> LayerDifference | None:
        """The first layer that differs from the Keras network, or None."""
        return next((one for one in self.layers if one.share > 0.0), None)


def verify(
    content: bytes,
    samples: np.ndarray,
    keras_tensors: Mapping[str, np.ndarray] | None = None,
) -> Verification:
    """Runs a file of an integer profile in LiteRT and in the simulator.

    Args:
      content: The file.
      samples: Float samples, ``[num_samples, ...]``.
      keras_tensors: Quantized activations of the Keras network for the same samples
        and policy, by activation entry.

    Raises:
      ExportError: If the simulator does not know an operator.
    """
    graph = load_model(content).subgraphs[0]
    simulated = simulate_tensors(content, samples)
    outputs = Runner(content).predict(samples, batch_size=len(samples))
    layers: list[LayerDifference] = []
    for index, values in simulated.items():
        tensor = graph.tensors[index]
        name = tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name
        expected = (keras_tensors or {}).get(name)
        if expected is None or tensor.type != schema.TensorType.INT8:
            continue
        scale = float(tensor.quantization.scale[0])
        levels = values.astype(np.int32) - int(tensor.quantization.zeroPoint[0])
        off = np.abs(np.rint(expected / scale).reshape(levels.shape) - levels)
        layers.append(
            LayerDifference(
                name=name, share=float((off > 0).mean()), max_levels=int(off.max())
            )
        )
    last = simulated[int(graph.outputs[0])]
    return Verification(
        runtime_share=float(np.mean(last != outputs)), layers=tuple(layers)
    )
