"""Reading networks that Keras saved, also those of strangers: checked before loaded.

Native code that reads HDF5 and checkpoints trusts them; configs may name any class, and
layers of any size; the graphs of a SavedModel are programs. So Keras is given copies of
what was read with care (`matar_tf.io.hdf5`, `matar_tf.keras.checkpoints`), classes are
held against a list (`matar_tf.keras.known_classes`), what is made of a config is in
proportion to what is stored (`matar_tf.keras.config_rules` before,
`matar_tf.keras.build_limits` meanwhile), and of a SavedModel the config and the
variables are taken, never a graph.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import h5py
from google.protobuf.message import DecodeError

from matar_tf.errors import ArtifactError, MatarError, ModelError
from matar_tf.io.archive import MAX_ARRAY_BYTES, read_members
from matar_tf.io.files import read_at_most
from matar_tf.io.hdf5 import Hdf5, most_unpacked, read_hdf5, write_hdf5
from matar_tf.io.json_reader import JsonReader
from matar_tf.keras._compat import (
    APPLICATION_CLASSES,
    KerasModel,
    json_utils,
    keras,
    saved_metadata_pb2,
    saving_utils,
    tf,
)
from matar_tf.keras.build_limits import building_within
from matar_tf.keras.checkpoints import copy_checkpoint
from matar_tf.keras.config_rules import check_config
from matar_tf.keras.known_classes import check_classes

__all__ = ["REBUILD_ERRORS", "naming", "read_archive", "read_model", "read_weights"]

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
_MAX_METADATA_BYTES: Final = 1 << 26
# Of every weight, while a network is made: itself, and up to four that an optimizer
# keeps, which are not in the file if it was not trained.
_COPIES: Final = 5
_KERAS_MEMBERS: Final = ("metadata.json", "config.json", "model.weights.h5")
_CONFIG_KEYS: Final = ("class_name", "config", "training_config")  # of a SavedModel
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
    _check_exists(path, "tf_keras")
    read = _read_saved_model
    if not path.is_dir():
        read = _read_keras if path.suffix == ".keras" else _read_hdf5
    with naming(str(path)):
        model = read(path, _with_applications(custom_objects), compile)
    if not isinstance(model, keras.Model):
        raise _no_network(path, model)
    return model


def _with_applications(custom_objects: _CustomObjects) -> dict[str, Any]:
    """Returns the caller's classes, and Keras' own where no other has their names."""
    known = keras.utils.get_custom_objects()
    own = {name: one for name, one in APPLICATION_CLASSES.items() if name not in known}
    return {**own, **(custom_objects or {})}


def _no_network(path: Path, found: object) -> ModelError:
    return ModelError(
        f"Expected a network saved by tf_keras at {str(path)!r}, got the config of "
        f"something else ({type(found).__name__}); save it with model.save."
    )


def _check_exists(path: Path, by: str) -> None:
    if not path.exists():
        raise ModelError(
            f"Expected a network saved by {by} at {path}, found nothing; check the "
            "path."
        )


@contextlib.contextmanager
def naming(
    where: str, folder: str | None = None, by: str = "tf_keras"
) -> Iterator[None]:
    """Turns what Keras raises into one sentence, which names no other folder.

    Args:
      where: What Keras makes a network of.
      folder: Where a copy of it lies.
      by: Which Keras it is from.

    Raises:
      ModelError: Instead of one of `REBUILD_ERRORS`.
    """
    try:
        yield
    except MatarError:
        raise
    except REBUILD_ERRORS as error:
        is_clear = str(error) and not isinstance(error, LookupError)
        text = str(error) if is_clear else repr(error)
        reason = " ".join(text.split()).rstrip(".")
        if folder is not None:
            reason = reason.replace(folder, "its copy")
        raise ModelError(
            f"Expected a network saved by {by} at {where!r}, but: "
            f"{reason:.300}; check that it is the right one, or save it again."
        ) from error


@contextlib.contextmanager
def _folder_for(path: Path) -> Iterator[Path]:
    """Yields a folder for a copy of what was checked."""
    with tempfile.TemporaryDirectory() as folder, naming(str(path), folder):
        yield Path(folder)


def _read_hdf5(
    path: Path, custom_objects: dict[str, Any], is_compiled: bool
) -> KerasModel:
    _check_is_file(path)
    with path.open("rb") as file:
        stored = read_hdf5(file, str(path))
    num_chars = 0
    for key in ("model_config", "training_config"):
        if key in stored.groups[""]:
            num_chars += len(stored.groups[""][key])
            _check_json(stored.groups[""][key], str(path), custom_objects)
    if "model_config" not in stored.groups[""]:
        raise ModelError(
            f"Expected a whole network in {path}, got none, at most its weights; "
            "save it with model.save, or build it and load these with its "
            "load_weights."
        )
    with (
        h5py.File(write_hdf5(stored), "r") as copy,
        building_within(_COPIES * stored.num_bytes, num_chars, str(path)),
    ):
        return keras.models.load_model(
            copy, custom_objects=custom_objects, compile=is_compiled
        )


def read_archive(path: Path, by: str = "tf_keras") -> tuple[bytes, bytes]:
    """Returns config and weights in a ``.keras`` file, JSON and HDF5 to be checked.

    Args:
      path: The file.
      by: Which Keras it is from.

    Raises:
      ModelError: If there is none, or it is damaged, too large or too densely packed,
        has another member, or is from the other Keras.
    """
    _check_exists(path, by)
    _check_is_file(path)
    most = min(MAX_ARRAY_BYTES, most_unpacked(path.stat().st_size))
    try:
        members = read_members(path, str(path), max_bytes=most, known=_KERAS_MEMBERS)
    except ArtifactError as error:
        raise ModelError(str(error)) from error
    for name in ("config.json", "model.weights.h5"):
        if name not in members:
            raise ModelError(
                f"Expected a whole network in {path}, got none: it has no {name}; save "
                "it with model.save."
            )
    _check_version(members.get("metadata.json", b"{}"), path, by)
    return members["config.json"], members["model.weights.h5"]


def read_weights(content: bytes, what: str) -> Hdf5:
    """Returns what a file of HDF5 in memory holds for Keras.

    Args:
      content: The file.
      what: Where it is from, in errors.

    Raises:
      ModelError: As `read_hdf5`.
    """
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        return read_hdf5(file, what)


def _check_version(metadata: bytes, path: Path, by: str) -> None:
    """Refuses a file that says that it is from the other Keras."""
    said = JsonReader(ModelError).parse(metadata, str(path))
    version = said.get("keras_version") if isinstance(said, dict) else None
    names = {"2": ("tf_keras", "load_model"), "3": ("Keras 3", "from_keras3")}
    saver, function = names.get(str(version).partition(".")[0], (by, ""))
    if saver != by:
        raise ModelError(
            f"Expected a network saved by {by} at {str(path)!r}, got one of {saver}; "
            f"pass it to matar_tf.{function}."
        )


def _read_keras(
    path: Path, custom_objects: dict[str, Any], is_compiled: bool
) -> KerasModel:
    config, weights = read_archive(path)
    _check_json(config, str(path), custom_objects)
    stored = read_weights(weights, str(path))
    # Of what was checked, since the file itself may change meanwhile.
    with _folder_for(path) as folder:
        copy = folder / "copy.keras"
        with zipfile.ZipFile(copy, "w") as archive:
            archive.writestr("config.json", config)
            archive.writestr("model.weights.h5", write_hdf5(stored).getbuffer())
        with building_within(_COPIES * stored.num_bytes, len(config), str(path)):
            return keras.models.load_model(
                str(copy), custom_objects=custom_objects, compile=is_compiled
            )


def _check_is_file(path: Path) -> None:
    """Refuses what may have no end, such as a pipe."""
    if path.exists() and not path.is_file():
        raise ModelError(
            f"Expected a file at {str(path)!r}, found a device or a pipe; name a file."
        )


def _read_saved_model(
    path: Path, custom_objects: dict[str, Any], is_compiled: bool
) -> KerasModel:
    if not (path / "keras_metadata.pb").exists():
        raise ModelError(
            f"Expected a file of tf_keras, or the folder of a SavedModel, at "
            f"{str(path)!r}, got a folder without keras_metadata.pb; name a file."
        )
    content = read_at_most(path / "keras_metadata.pb", _MAX_METADATA_BYTES, ModelError)
    nodes = _metadata.SavedMetadata.FromString(content).nodes
    root = next((one.metadata for one in nodes if one.node_path == "root"), "{}")
    stored = _check_json(root, str(path), custom_objects, of=_CONFIG_KEYS)
    if not isinstance(stored.get("config"), dict):
        raise ModelError(
            f"Expected a Functional or Sequential network with a config in {path}, got "
            "none; matar_tf runs no graphs of a SavedModel. Save the network as HDF5."
        )
    stored = json_utils.decode(json.dumps(stored))  # tuples and other values
    with _folder_for(path) as folder:
        copy = folder / "variables"
        sizes = copy_checkpoint(
            path / "variables" / "variables",
            copy,
            without=() if is_compiled else ("optimizer",),
        )
        with building_within(_COPIES * sum(sizes.values()), len(root), str(path)):
            model = _built(stored, custom_objects, is_compiled, path)
            # Nothing may wait for its values once the copy is gone.
            if model.optimizer is not None:
                _build_optimizer(model, sizes)
            status = model.load_weights(str(copy))
    status.assert_existing_objects_matched()
    status.expect_partial()  # metrics, and the optimizer's state if it is not asked for
    return model


def _built(
    stored: dict[str, Any],
    custom_objects: dict[str, Any],
    is_compiled: bool,
    path: Path,
) -> KerasModel:
    """Returns the network of a SavedModel's config, with its weights made."""
    with keras.utils.custom_object_scope(custom_objects):
        model: KerasModel = keras.models.model_from_config(
            {key: stored[key] for key in ("class_name", "config")}
        )
        if not isinstance(model, keras.Model):
            raise _no_network(path, model)
        if not model.built:
            raise ModelError(
                "Expected a network that knows the shape of its input, got one that "
                "does not; give its first layer an input shape and save it again."
            )
        if is_compiled and stored.get("training_config"):
            model.compile(
                **saving_utils.compile_args_from_training_config(
                    stored["training_config"], custom_objects
                )
            )
    return model


def _build_optimizer(model: KerasModel, stored: Iterable[str]) -> None:
    """Makes those variables of an optimizer that a checkpoint has values for."""
    weights, optimizer = model.trainable_variables, model.optimizer
    is_legacy = isinstance(optimizer, keras.optimizers.legacy.Optimizer)
    # There are none of a network that was compiled and not trained.
    start = "optimizer/" if is_legacy else "optimizer/_variables/"
    if any(name.startswith(start) for name in stored):
        build = optimizer._create_all_weights if is_legacy else optimizer.build
        build(weights)


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
    check_config(value, where)
    return value
