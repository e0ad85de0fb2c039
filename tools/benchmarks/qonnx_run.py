"""QONNX files on the executor of the package qonnx, beside what the simulator says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from matar_tf.named_arrays import by_name
from matar_tf.onnx.network import OnnxNetwork, Written

__all__ = ["Difference", "channels_first", "layer_differences", "run_qonnx"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How far a layer's levels are from the simulator's, given its inputs.

    Attributes:
      operators: The operators that made them, in ONNX.
      share: Share of levels that differ.
      largest: By how much at most.
    """

    operators: tuple[str, ...]
    share: float
    largest: float


def channels_first(values: np.ndarray) -> np.ndarray:
    """Returns samples as ONNX has them: images with their channels first."""
    return values.transpose(0, 3, 1, 2) if values.ndim == 4 else values


def run_qonnx(network: OnnxNetwork, samples: Any) -> dict[str, np.ndarray]:
    """Returns every tensor of a QONNX network, by its name.

    Args:
      network: Written for as many samples as there are.
      samples: As LiteRT takes them; of several inputs, by name.
    """
    return _run(network, samples, {})[0]


def layer_differences(
    network: OnnxNetwork, samples: Any, simulated: Mapping[int, np.ndarray]
) -> dict[str, Difference]:
    """Compares every layer, which reads what the simulator made before it.

    Args:
      network: Written for as many samples as there are.
      samples: As LiteRT takes them.
      simulated: What `simulate_tensors` returned for them.

    Returns:
      By the layer's name.
    """
    expected = {
        one.name: _levels(simulated[index], one)
        for index, one in network.tensors.items()
    }
    return _run(network, samples, expected)[1]


def _run(
    network: OnnxNetwork, samples: Any, expected: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, Difference]]:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_node

    model = ModelWrapper(network.model)
    graph, opsets = model.graph, model.get_opset_imports()
    context: dict[str, Any] = model.make_empty_exec_context()
    names = [one.name for one in graph.input]
    given = by_name(samples, names, "samples for each input")
    context |= {name: channels_first(values) for name, values in given.items()}
    found: dict[str, Difference] = {}
    operators: list[str] = []
    for node in graph.node:
        execute_node(node, context, graph, opsets[node.domain])
        operators.append(node.op_type)
        name = node.output[0]
        if name in expected:
            apart = np.abs(context[name] - expected[name])
            found[name] = Difference(
                operators=tuple(operators),
                share=float(np.mean(apart > 0)),
                largest=float(apart.max()),
            )
            context[name] = expected[name]
            operators = []
    return context, found


def _levels(stored: np.ndarray, written: Written) -> np.ndarray:
    levels = stored.astype(np.float32) - np.float32(written.grid.zero_point)
    return channels_first(levels) if written.channels_first else levels
