"""Comparing a file with what it should compute, layer by layer.

Three witnesses: the runtime (LiteRT), the NumPy simulator, which shares no code with
it, and, where TensorFlow is installed, the Keras network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from matar_tf.tflite._schema import load_model, op_name, schema, write_model
from matar_tf.tflite.evaluate import argmax_agreement
from matar_tf.tflite.runtime import make_interpreter
from matar_tf.tflite.simulator import simulate_tensors

__all__ = ["LayerDifference", "Verification", "run_all_tensors", "verify"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerDifference:
    """How far the witnesses are apart on one int8 tensor.

    Attributes:
      name: Name of the tensor; its activation entry where the policy has one.
      operator: Operator that computes it.
      runtime_share: Share of elements on which runtime and simulator differ.
      runtime_levels: Largest difference of the two in levels.
      keras_share: Share of elements on which Keras and simulator differ, or None for
        a tensor that the Keras network has not.
      keras_levels: Largest difference of the two in levels, or None.
    """

    name: str
    operator: str
    runtime_share: float
    runtime_levels: int
    keras_share: float | None
    keras_levels: int | None


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What the witnesses say.

    Attributes:
      runtime_share: Share of outputs on which runtime and simulator differ.
      agreement: Share of samples with the same largest output in both.
      layers: Differences in execution order.
    """

    runtime_share: float
    agreement: float
    layers: tuple[LayerDifference, ...]

    @property
    def first_runtime_difference(self) -> LayerDifference | None:
        """The first layer on which runtime and simulator differ, or None."""
        return next((one for one in self.layers if one.runtime_share), None)

    @property
    def first_keras_difference(self) -> LayerDifference | None:
        """The first layer on which Keras and simulator differ, or None."""
        return next((one for one in self.layers if one.keras_share), None)


def verify(
    content: bytes,
    samples: np.ndarray,
    keras_tensors: Mapping[str, np.ndarray] | None = None,
) -> Verification:
    """Runs a file in LiteRT and in the simulator, and compares every int8 tensor.

    Args:
      content: The file, of any profile.
      samples: Float samples, ``[num_samples, ...]``.
      keras_tensors: Quantized activations of the Keras network for the same samples
        and policy, by activation entry.

    Raises:
      ExportError: If the simulator does not know an operator, or LiteRT refuses the
        file.
    """
    model = load_model(content)
    graph = model.subgraphs[0]
    simulated = simulate_tensors(content, samples)
    measured = run_all_tensors(content, samples)
    layers: list[LayerDifference] = []
    for operator in graph.operators:
        index = int(operator.outputs[0])
        tensor = graph.tensors[index]
        if tensor.type != schema.TensorType.INT8:
            continue
        name = tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name
        levels = simulated[index].astype(np.int32)
        off = np.abs(measured[index].astype(np.int32) - levels)
        keras_off = None
        # The part of a concatenation may bear the name of the whole.
        expected = (keras_tensors or {}).get(name)
        if expected is not None and expected.size == levels.size:
            expected = expected / float(tensor.quantization.scale[0])
            levels = levels - int(tensor.quantization.zeroPoint[0])
            keras_off = np.abs(np.rint(expected).reshape(levels.shape) - levels)
        layers.append(
            LayerDifference(
                name=name,
                operator=op_name(model, operator),
                runtime_share=float((off > 0).mean()),
                runtime_levels=int(off.max()),
                keras_share=None
                if keras_off is None
                else float((keras_off > 0).mean()),
                keras_levels=None if keras_off is None else int(keras_off.max()),
            )
        )
    last = int(graph.outputs[0])
    return Verification(
        runtime_share=float(np.mean(simulated[last] != measured[last])),
        agreement=argmax_agreement(measured[last], simulated[last]),
        layers=tuple(layers),
    )


def run_all_tensors(content: bytes, samples: np.ndarray) -> dict[int, np.ndarray]:
    """Returns the int8 tensors and the output of a file in LiteRT, by tensor index.

    A delegate keeps its tensors to itself; so each is made an output of the file.

    Raises:
      ExportError: If LiteRT refuses the file.
    """
    model = load_model(content)
    graph = model.subgraphs[0]
    made = [int(operator.outputs[0]) for operator in graph.operators]
    int8 = [i for i in made if graph.tensors[i].type == schema.TensorType.INT8]
    computed = sorted({*int8, int(graph.outputs[0])})
    graph.outputs = np.array(computed, np.int32)
    model.signatureDefs = None
    interpreter = make_interpreter(write_model(model), "litert", 1)
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, samples.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, np.ascontiguousarray(samples, np.float32))
    interpreter.invoke()
    return {one: interpreter.get_tensor(one) for one in computed}
