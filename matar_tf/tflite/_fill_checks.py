"""What is checked of a template and its numbers, before a policy is filled in or after.

Steps that end an interpreter, or that no kernel of one computes with, are refused here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from matar_tf.errors import ExportError, ModelError
from matar_tf.operators import OPERATORS, CostShape, Grid
from matar_tf.packaged import Artifact
from matar_tf.parameters import LayerParameters
from matar_tf.template_map import KernelPlace
from matar_tf.tflite._containers import Kernel
from matar_tf.tflite._float_kernels import check_pieces
from matar_tf.tflite._graph_nodes import LARGEST_STEP, LEAST_STEP, LEAST_STORED_STEP
from matar_tf.tflite._graph_rules import LEAST_RATIO, RATIO_LIMIT, SUM_RATIO_LIMIT
from matar_tf.tflite._places import is_activation
from matar_tf.tflite._schema import bias_of, op_name, parse_model, source_of
from matar_tf.tflite.template import Template

__all__ = ["check_kernels", "check_ratios", "check_steps"]

_LEAST_KERNEL_STEP = LEAST_STORED_STEP * 128  # divided by a factor where it is stored


def check_kernels(artifact: Artifact, template: Template) -> None:
    """Checks that the template has room for each kernel and each bias."""
    model = parse_model(template.content)
    for entry, layer in artifact.parameters.layers.items():
        if entry in template.pieces:
            check_pieces(model, entry, template.pieces[entry], layer)
            continue
        calls = template.calls(entry)
        if sorted(layer.calls) != sorted(calls):
            raise ModelError(
                f"Expected the calls {list(layer.calls)} of {entry!r} in the template "
                f"map, got {list(calls)}; package the model again."
            )
        for name in (entry, *calls):
            _check_room(model, entry, layer, template.kernels[name])


def _check_room(
    model: Any, entry: str, layer: LayerParameters, place: KernelPlace
) -> None:
    """Checks that an operator has room for a kernel and its bias."""
    graph = model.subgraphs[0]
    operator = graph.operators[place.operator]
    shapes = [
        tuple(int(size) for size in graph.tensors[index].shape)
        for index in (operator.inputs[1], bias_of(model, operator))
        if index >= 0
    ]
    channels = layer.kernel.shape[layer.channel_axis]
    expected = [layer.kernel.shape, (channels,)][: len(shapes)]
    if shapes != expected:
        raise ModelError(
            f"Expected a kernel and a bias of the shapes {expected} for {entry!r} "
            f"in the template, got {shapes}; package the model again."
        )


def check_steps(artifact: Artifact, template: Template) -> None:
    """Checks the steps of activations, at all widths together.

    Raises:
      ModelError: If one is too small or too large, or an operator would bring values
        onto a grid so much finer or coarser that its fixed-point factor ends there.
    """
    steps = {
        entry: (float(tensor.step.min()), float(tensor.step.max()))
        for entry, tensor in artifact.parameters.tensors.items()
    }
    for entry, (least, largest) in steps.items():
        if not LEAST_STEP <= least <= largest <= LARGEST_STEP:
            raise ModelError(
                f"Expected steps of {LEAST_STEP:g} to {LARGEST_STEP:g} of {entry!r}, "
                f"got {least:.3g} to {largest:.3g}; calibrate and train again."
            )
    model = parse_model(template.content)

    def steps_at(index: int) -> tuple[float, float]:
        if index in template.tensors:
            return steps[template.tensors[index]]
        fixed = float(model.subgraphs[0].tensors[index].quantization.scale[0])
        return fixed, fixed

    for operator in model.subgraphs[0].operators:
        row = OPERATORS[op_name(model, operator)]
        output = template.tensors.get(int(operator.outputs[0]))
        if row.grid is not Grid.OWN or row.shape is CostShape.KERNEL or not output:
            continue
        data = [int(i) for i in operator.inputs if is_activation(model, int(i))]
        sources = [steps_at(index) for index in data]
        if row.is_product:
            sources = [tuple(map(math.prod, zip(*sources, strict=True)))]
        for least, largest in sources:
            low, high = least / steps[output][1], largest / steps[output][0]
            if not LEAST_RATIO <= low <= high < SUM_RATIO_LIMIT:
                raise ModelError(
                    f"Expected steps below {SUM_RATIO_LIMIT} times those of "
                    f"{output!r} in what it is made of, got {low:.3g} to {high:.3g}; "
                    "calibrate and train again."
                )


def check_ratios(model: Any, kernels: Sequence[Kernel]) -> None:
    """Refuses accumulators with steps so much wider than the output's that none runs.

    Raises:
      ExportError: If ``s_in * s_w / s_out`` is not below XNNPACK's limit, or a step of
        a kernel is none that kernels of a runtime take.
    """
    tensors = model.subgraphs[0].tensors
    for kernel in kernels:
        least, largest = float(kernel.scale.min()), float(kernel.scale.max())
        if not _LEAST_KERNEL_STEP <= least <= largest <= LARGEST_STEP:
            raise ExportError(
                f"Expected steps of {_LEAST_KERNEL_STEP:.3g} to {LARGEST_STEP:g} of "
                f"the kernel of {kernel.entry!r}, got {least:.3g} to {largest:.3g}; "
                "calibrate and train on samples like those that it will see."
            )
        operator = kernel.operator
        at = source_of(model, operator), operator.inputs[1], operator.outputs[0]
        scales = [getattr(tensors[i].quantization, "scale", None) for i in at]
        if any(scale is None for scale in scales):
            continue  # float, between packed kernels
        source, weights, output = (np.asarray(one, np.float32) for one in scales)
        ratio = float((source * weights / output).max())
        if not ratio < RATIO_LIMIT:
            raise ExportError(
                f"Expected steps of input times kernel below {RATIO_LIMIT} steps of "
                f"the output in {kernel.entry!r}, got {ratio:.3g}: next to nothing "
                "came out of the layer when its output was calibrated; calibrate and "
                "train on samples like those that it will see."
            )
