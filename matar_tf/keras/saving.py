"""Loading whole models: what Keras must know of tfmot's objects and of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matar_tf.keras._compat import KerasModel, keras, tfmot
from matar_tf.keras.attention import AttentionCore
from matar_tf.keras.borders import Dequantize, FloatWrapper, Quantize
from matar_tf.keras.layers import (
    ChannelScale,
    InputQuantize,
    MultiBitBatchNormalization,
)
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import MatarQuantizeConfig
from matar_tf.keras.shared import SharedLayer
from matar_tf.keras.slices import Slice
from matar_tf.keras.stored import read_model
from matar_tf.keras.sums import MultiBitAdd, MultiBitSubtract
from matar_tf.keras.train.kurtosis import KurtosisRegularizer

__all__ = ["load_model"]


def load_model(
    path: str | Path,
    custom_objects: Mapping[str, Any] | None = None,
    *,
    compile: bool = True,
) -> KerasModel:
    """Loads a whole multi-bitwidth model saved as HDF5 or SavedModel, or a float one.

    As ``tf_keras.models.load_model`` after ``import matar_tf.keras``, which registers
    all classes (no ``quantize_scope`` is needed); but a file may name only classes of
    Keras, registered ones and those of `custom_objects`, none that runs code of the
    file, and the graphs of a SavedModel are not read.

    Args:
      path: The file, or the folder of a SavedModel.
      custom_objects: Classes and functions of your own, by name.
      compile: Whether to compile the model as it was when it was saved.

    Raises:
      ModelError: If there is no such model, or it could run foreign code or read other
        files.
    """
    return read_model(path, custom_objects, compile=compile)


def _register_tfmot_objects() -> None:
    """Lets Keras load tfmot's wrapper without a ``quantize_scope``, and freeze it."""
    for objects in tfmot.quantization.keras.quantize_scope().custom_objects:
        keras.utils.get_custom_objects().update(objects)
    kind = keras.utils.get_custom_objects()["QuantizeWrapperV2"]
    wrapper.honour_freezing(kind, MatarQuantizeConfig)
    # HDF5 files name what is inside a wrapper without its package.
    for own in (
        AttentionCore,
        ChannelScale,
        Dequantize,
        FloatWrapper,
        InputQuantize,
        KurtosisRegularizer,
        MultiBitAdd,
        MultiBitBatchNormalization,
        MultiBitSubtract,
        SharedLayer,
        Quantize,
        Slice,
    ):
        keras.utils.get_custom_objects()[own.__name__] = own


_register_tfmot_objects()
