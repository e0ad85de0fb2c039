"""Refusing the Keras v3 file format, from which tfmot's wrapper cannot be rebuilt.

The format stores variables per tracked object, and the wrapper tracks those of its
inner layer a second time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matar_tf.keras._compat import keras

__all__ = ["RefusesKerasFormat", "refuse_keras_format"]

_REASON = (
    "Expected the path of an HDF5 file ('x.h5'), of a SavedModel directory, or of a "
    "TensorFlow checkpoint, got the Keras v3 format ('.keras', '.weights.h5'), from "
    "which tfmot's quantization wrappers cannot be rebuilt; save to one of the others."
)


def refuse_keras_format() -> None:
    """Raises if Keras is about to write a ``.keras`` file; call it in `get_config`.

    Keras collects the configs before it opens the file, so nothing is left behind.

    Raises:
      NotImplementedError: While Keras collects the configs for a ``.keras`` file.
    """
    probe = keras.initializers.Zeros()
    keras.saving.serialize_keras_object(probe)
    # Only for this format an object that is met again is given an id.
    if "shared_object_id" in keras.saving.serialize_keras_object(probe):
        raise NotImplementedError(_REASON)


class RefusesKerasFormat:
    """A layer that stops ``model.save_weights("x.weights.h5")`` with the reason."""

    def save_own_variables(self, store: Any) -> None:
        """Removes the file that Keras has begun, and raises.

        Called only while a ``.weights.h5`` file is written.

        Raises:
          NotImplementedError: Always.
        """
        begun = store.file
        path = Path(begun.filename)
        begun.close()
        path.unlink(missing_ok=True)
        raise NotImplementedError(_REASON)
