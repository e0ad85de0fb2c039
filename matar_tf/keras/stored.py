"""Reading networks that Keras saved, also those of strangers: checked before loaded.

HDF5 files may read other files, by links, external storage and virtual datasets, and
claim arrays of any size; configs may name any class; the graphs of a SavedModel are
programs. So links and arrays are looked at first, classes are held against a list
(`matar_tf.keras.known_classes`), and of a SavedModel the config and the variables are
taken, never a graph.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import h5py
from google.protobuf.message import DecodeError

from matar_tf.errors import ArtifactError, MatarError, ModelError
from matar_tf.io.archive import MAX_ARRAY_BYTES, read_members
from matar_tf.io.json_reader import JsonReader
from matar_tf.keras._compat import (
    KerasModel,
    json_utils,
    keras,
    saved_metadata_pb2,
    saving_utils,
    tf,
)
from matar_tf.keras.known_classes import check_classes

__all__ = ["REBUILD_ERRORS", "read_model"]

REBUILD_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    DecodeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # RecursionError and NotImplementedError too
    TypeError,
    ValueError,
    tf.errors.OpError,
)
_MAX_GROUPS: Final = 32  # of HDF5, one in the other
_KERAS_MEMBERS: Final = ("metadata.json", "config.json", "model.weights.h5")
_CONFIG_KEYS: Final = ("class_name", "config", "training_config")  # of a SavedModel
_hdf5: Any = h5py  # the type stubs lack parts of these
_metadata: Any = saved_metadata_pb2
_CustomObjects = Mapping[str, Any] | None


def read_model(
    path: str | Path, custom_objects: _CustomObjects = None, *, compile: bool = True
) -> KerasModel:
    """Returns the network that Keras saved as HDF5, ``.keras`` or SavedModel.

    Args:
      path: The file, or the folder of a SavedModel.
      custom_objects: Classes and functions of the caller's own, by name, beside those
        that are registered with Keras.
      compile: Whether to compile the model as it was compiled when it was saved.

    Raises:
      ModelError: If there is none, it could run foreign code or read other files, or it
        cannot be rebuilt.
    """
    path = Path(path)
    if not path.exists():
        raise ModelError(
            f"Expected a network saved by tf_keras at {path}, found nothing; check the "
            "path."
        )
    read = _read_saved_model if path.is_dir() else _read_hdf5
    if path.suffix == ".keras":
        read = _read_keras
    try:
        return read(path, dict(custom_objects or {}), compile)
    except MatarError:
        raise
    except REBUILD_ERRORS as error:
        raise ModelError(
            f"Expected a network saved by tf_keras at {str(path)!r}, but: "
            f"{str(error) or error!r:.300}."
        ) from error


def _read_hdf5(
    path: Path, custom_objects: dict[str, Any], is_compiled: bool
) -> KerasModel:
    with h5py.File(path, "r") as file:
        _check_hdf5(file, path.stat().st_size, str(path))
        for key in ("model_config", "training_config"):
            if key in file.attrs:
                _check_json(file.attrs[key], str(path), custom_objects)
        if "model_config" not in file.attrs:
            raise ModelError(
                f"Expected a whole network in {path}, got none, at most its weights; "
                "save it with model.save, or build it and load these with its "
                "load_weights."
            )
        return keras.models.load_model(
            file, custom_objects=custom_objects, compile=is_compiled
        )


def _read_keras(
    path: Path, custom_objects: dict[str, Any], is_compiled: bool
) -> KerasModel:
    try:
        members = read_members(
            path, str(path), max_bytes=MAX_ARRAY_BYTES, known=_KERAS_MEMBERS
        )
    except ArtifactError as error:
        raise ModelError(str(error)) from error
    _check_json(members["config.json"], str(path), custom_objects)
    weights = members["model.weights.h5"]
    with h5py.File(io.BytesIO(weights), "r") as file:
        _check_hdf5(file, len(weights), str(path))
    return keras.models.load_model(
        str(path), custom_objects=custom_objects, compile=is_compiled
    )


def _read_saved_model(
    path: Path, custom_objects: dict[str, Any], is_compiled: bool
) -> KerasModel:
    content = (path / "keras_metadata.pb").read_bytes()
    nodes = _metadata.SavedMetadata.FromString(content).nodes
    root = next((one.metadata for one in nodes if one.node_path == "root"), "{}")
    stored = _check_json(root, str(path), custom_objects, of=_CONFIG_KEYS)
    if not isinstance(stored.get("config"), dict):
        raise ModelError(
            f"Expected a Functional or Sequential network with a config in {path}, got "
            "none; matar_tf runs no graphs of a SavedModel. Save the network as HDF5."
        )
    stored = json_utils.decode(json.dumps(stored))  # tuples and other values
    with keras.utils.custom_object_scope(custom_objects):
        model: KerasModel = keras.models.model_from_config(
            {key: stored[key] for key in ("class_name", "config")}
        )
        if is_compiled and stored.get("training_config"):
            model.compile(
                **saving_utils.compile_args_from_training_config(
                    stored["training_config"], custom_objects
                )
            )
    status = model.load_weights(str(path / "variables" / "variables"))
    status.assert_existing_objects_matched()
    status.expect_partial()  # metrics, and the optimizer's state if it is not asked for
    return model


def _check_json(
    content: Any,
    where: str,
    custom_objects: _CustomObjects,
    of: tuple[str, ...] = (),
) -> Any:
    """Returns a JSON value whose classes are known; `of` an object some keys only."""
    value = JsonReader(ModelError).parse(content, where)
    if of:
        value = {key: value[key] for key in of if key in value}
    check_classes(value, where, custom_objects)
    return value


def _check_hdf5(file: Any, num_bytes: int, where: str) -> None:
    """Checks that all that a file of HDF5 holds lies in it.

    Raises:
      ModelError: If a link or an array leads elsewhere, an array is not of numbers, or
        all of them claim more than the file's bytes.
    """
    seen: set[Any] = set()
    waiting = [(file, 0)]
    claimed = 0
    while waiting:
        item, depth = waiting.pop()
        address = _hdf5.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        if isinstance(item, h5py.Dataset):
            claimed += _size(item, where)
            continue
        if not isinstance(item, h5py.Group) or depth > _MAX_GROUPS:
            raise _foreign(where, f"{type(item).__name__} at depth {depth}")
        for key in item:
            link = item.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise _foreign(where, f"{type(link).__name__} {key!r:.100}")
            waiting.append((item[key], depth + 1))
    if claimed > num_bytes:
        raise _foreign(where, f"arrays of {claimed} bytes in {num_bytes}")


def _size(array: Any, where: str) -> int:
    """Returns the bytes of an array of numbers, all of which the file holds."""
    size = math.prod(array.shape or ()) * array.dtype.itemsize
    is_inside = not array.is_virtual and not array.external
    # Keras neither compresses nor leaves anything out, which could claim any size.
    if array.dtype.kind in "biuf" and is_inside and array.chunks is None:
        return size
    raise _foreign(where, f"an array of {array.dtype} that is not")


def _foreign(where: str, what: str) -> ModelError:
    return ModelError(
        f"Expected an HDF5 file as Keras writes it, of groups and plain arrays of "
        f"numbers that lie in it, at {where}, got {what}; matar_tf does not load it."
    )
