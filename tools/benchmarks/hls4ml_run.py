"""QONNX files in hls4ml: what its C simulation makes, beside the simulator.

hls4ml is no package of the project's environment: ``pip install hls4ml`` (1.3 was
tried); it needs a C++ compiler, which takes a minute for a small network.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from matar_tf.artifact import Artifact
from matar_tf.onnx.export import onnx_network
from matar_tf.policy import Policy
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import outputs_of
from matar_tf.tflite.simulator import simulate

__all__ = ["has_hls4ml", "levels_apart"]

_PRECISION = "fixed<48,24>"  # of sums and scales; levels have their own


def has_hls4ml() -> bool:
    """Whether hls4ml is installed."""
    return importlib.util.find_spec("hls4ml") is not None


def levels_apart(
    artifact: Artifact, policy: Policy, samples: np.ndarray, folder: Path
) -> float:
    """Returns by how many levels outputs differ at most from the simulator's.

    Args:
      artifact: A packaged network of one input and output.
      policy: The policy.
      samples: As LiteRT takes them.
      folder: Where hls4ml writes its sources.
    """
    import hls4ml

    builder = ModelBuilder(artifact)
    content = builder.build(policy)
    model = _channels_last(onnx_network(artifact, builder, policy, "qonnx").model)
    config = hls4ml.utils.config_from_onnx_model(
        model, granularity="name", backend="Vitis", default_precision=_PRECISION
    )
    network = hls4ml.converters.convert_from_onnx_model(
        model,
        output_dir=str(folder),
        io_type="io_stream" if samples.ndim == 4 else "io_parallel",
        backend="Vitis",
        hls_config=config,
    )
    network.compile()
    made = network.predict(np.ascontiguousarray(samples))
    expected = simulate(content, samples)
    (output,) = outputs_of(content)
    return float(np.abs(made.reshape(expected.shape) - expected).max() / output.step)


def _channels_last(model: Any) -> Any:
    """Returns a network as hls4ml wants it: cleaned, images with channels last."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.util.cleanup import cleanup_model

    cleaned = cleanup_model(ModelWrapper(model))
    if len(model.graph.input[0].type.tensor_type.shape.dim) != 4:
        return cleaned
    change = ConvertToChannelsLastAndClean(make_input_channels_last=True)
    return cleanup_model(cleaned.transform(change))
