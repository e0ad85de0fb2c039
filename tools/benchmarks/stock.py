"""What TensorFlow's own tools make of a network, to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from matar_tf.keras._compat import tf

__all__ = ["convert_stock"]


def convert_stock(
    model: Any,
    *,
    batch_size: int | None = None,
    representative: np.ndarray | None = None,
) -> bytes:
    """Returns the int8 file of a model, inputs and outputs in float.

    Args:
      model: A float network, or one of tfmot's quantization-aware training.
      batch_size: Of the file; None for any.
      representative: Samples whose ranges become the grids of a float network.
    """
    shape = (batch_size, *model.input_shape[1:])
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(
        tf.TensorSpec(shape, tf.float32)
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if representative is not None:

        def samples() -> Iterator[list[np.ndarray]]:
            for number in range(len(representative)):
                yield [representative[number : number + 1]]

        converter.representative_dataset = samples
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    content: bytes = converter.convert()
    return content
