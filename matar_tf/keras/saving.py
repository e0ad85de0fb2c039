"""Loading whole models: what Keras must know of tfmot's objects and of ours."""

from __future__ import annotations

from typing import Any

from matar_tf.keras._compat import KerasModel, keras, tfmot
from matar_tf.keras.layers import InputQuantize, MultiBitBatchNormalization
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import MatarQuantizeConfig
from matar_tf.keras.train.kurtosis import KurtosisRegularizer

__all__ = ["load_model"]


def load_model(path: str, **kwargs: Any) -> KerasModel:
    """Loads a whole multi-bitwidth model saved as HDF5 or SavedModel.

    The same as ``tf_keras.models.load_model`` after ``import matar_tf.keras``, which
    registers all classes; no ``quantize_scope`` is needed.
    """
    return keras.models.load_model(path, **kwargs)


def _register_tfmot_objects() -> None:
    """Lets Keras load tfmot's wrapper without a ``quantize_scope``, and freeze it."""
    for objects in tfmot.quantization.keras.quantize_scope().custom_objects:
        keras.utils.get_custom_objects().update(objects)
    kind = keras.utils.get_custom_objects()["QuantizeWrapperV2"]
    wrapper.honour_freezing(kind, MatarQuantizeConfig)
    # HDF5 files name what is inside a wrapper without its package.
    for own in (InputQuantize, KurtosisRegularizer, MultiBitBatchNormalization):
        keras.utils.get_custom_objects()[own.__name__] = own


_register_tfmot_objects()
