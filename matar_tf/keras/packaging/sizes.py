"""A model with inputs of unknown size, built for the size that ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matar_tf.errors import ModelError
from matar_tf.keras._compat import KerasModel, keras
from matar_tf.keras.checks import fits_input, input_shapes
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.stored import REBUILD_ERRORS

__all__ = ["InputShape", "with_input_shape"]

_MOST_CHARS = 300  # of what Keras says
InputShape = Sequence[int] | Mapping[str, Sequence[int]]


def with_input_shape(model: KerasModel, shape: InputShape | None) -> KerasModel:
    """Returns a model whose inputs have sizes, with the weights of another.

    Args:
      model: A multi-bitwidth model.
      shape: That of a sample of its input, or of those by name where there are several;
        None for a model whose inputs have sizes, which is returned as it is.

    Raises:
      ModelError: If a size is missing, does not fit the model, or is too small for it.
    """
    known = input_shapes(model)
    given = _by_name(model, shape, known)
    sized = {name: (None, *given.get(name, one[1:])) for name, one in known.items()}
    unknown = [name for name, one in sized.items() if None in one[1:]]
    if unknown:
        name = unknown[0]
        raise ModelError(
            f"Expected a size for the input {name!r} of {model.name!r}, got "
            f"{known[name]}: what a network costs, and its file, depend on it; give "
            f"input_shape={_example(known[name][1:])}."
        )
    for name, one in sized.items():
        are_sizes = all(type(size) is int and size > 0 for size in one[1:])
        if not are_sizes or not fits_input(known[name], one):
            raise ModelError(
                f"Expected the size of a sample for the input {name!r} of "
                f"{model.name!r}, {known[name][1:]}, as integers, got {one[1:]}; give "
                f"input_shape={_example(known[name][1:])}."
            )
    return model if sized == known else _built(model, sized)


def _by_name(
    model: KerasModel, shape: InputShape | None, known: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    """Returns given shapes by input."""
    if shape is None:
        return {}
    if not isinstance(shape, Mapping):
        shape = {next(iter(known)): shape} if len(known) == 1 else {"": shape}
    if not set(shape) <= set(known):
        raise ModelError(
            "Expected input_shape= as a mapping by the names of the inputs of "
            f"{model.name!r}, {', '.join(map(repr, known))}, got {dict(shape)}; name "
            "them."
        )
    return {name: tuple(one) for name, one in shape.items()}


def _example(shape: Sequence[int | None]) -> str:
    return str(tuple(224 if size is None else size for size in shape))


def _built(model: KerasModel, shapes: Mapping[str, Sequence[Any]]) -> KerasModel:
    config = model.get_config()
    for layer in config["layers"]:
        if layer["class_name"] == "InputLayer":
            layer["config"]["batch_input_shape"] = shapes[layer["config"]["name"]]
    kinds = [type(one) for one in map(wrapper.inner_layer, model.layers)]
    try:
        # Layers of the user's own are known by the model at hand alone.
        with keras.utils.custom_object_scope({one.__name__: one for one in kinds}):
            built = type(model).from_config(config)
        built.set_weights(model.get_weights())
    except REBUILD_ERRORS as error:
        sizes = {name: shape[1:] for name, shape in shapes.items()}
        raise ModelError(
            f"Expected an input_shape that {model.name!r} can be built for, got "
            f"{sizes}: {' '.join(str(error).split())[:_MOST_CHARS]}; give a larger one."
        ) from error
    return built
