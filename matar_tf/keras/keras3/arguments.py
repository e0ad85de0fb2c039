"""Arguments of Keras 3's layers as those of tf_keras: renamed, left out or refused."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from matar_tf.errors import ModelError, shown
from matar_tf.keras._compat import APPLICATION_CLASSES, keras
from matar_tf.keras.known_classes import check_classes
from matar_tf.layer_kinds import LAYER_KINDS

__all__ = [
    "COMPOSITES",
    "KINDS",
    "NAMED",
    "Kind",
    "argument_names",
    "call_arguments",
    "layer_class",
    "policy_of",
    "translate_argument",
]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a kind of layer differs between Keras 3 and tf_keras.

    Attributes:
      renamed: Names of arguments in tf_keras, by those in Keras 3.
      neutral: Arguments that tf_keras lacks, with the values that change nothing.
      parts: Where the arrays of a layer lie, in the order of tf_keras' weights.
    """

    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    neutral: Mapping[str, tuple[Any, ...]] = field(
        default_factory=dict[str, tuple[Any, ...]]
    )
    parts: tuple[str, ...] = ("",)


# A recurrent layer of tf_keras takes one argument that its signature does not show.
_CELL: Final = Kind(
    renamed={"zero_output_for_mask": "zero_output_for_mask"}, parts=("cell",)
)
_BUILT: Final = (
    "ActivityRegularization",
    "AdditiveAttention",
    "Attention",
    "AveragePooling3D",
    "CenterCrop",
    "Conv3D",
    "Conv3DTranspose",
    "Cropping3D",
    "Dot",
    "EinsumDense",
    "Embedding",
    "GlobalAveragePooling3D",
    "GlobalMaxPooling3D",
    "GroupNormalization",
    "LayerNormalization",
    "Masking",
    "MaxPooling3D",
    "Resizing",
    "SpatialDropout3D",
    "TimeDistributed",
    "UnitNormalization",
    "UpSampling3D",
    "ZeroPadding3D",
)
_ATTENTION: Final = tuple(f"{one}_dense" for one in ("query", "key", "value", "output"))
KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {name: Kind() for name, row in LAYER_KINDS.items() if not row.is_ours}
    | dict.fromkeys(_BUILT, Kind())
    | dict.fromkeys(("GRU", "LSTM", "SimpleRNN"), _CELL)
    | {
        "Bidirectional": Kind(),
        "InputLayer": Kind(renamed={"batch_shape": "batch_input_shape"}),
        "LeakyReLU": Kind(renamed={"negative_slope": "alpha"}),
        "MultiHeadAttention": Kind(parts=_ATTENTION),
        "RandomContrast": Kind(neutral={"value_range": ([0, 255], [0.0, 255.0])}),
    }
)
# Arguments that decide nothing that is computed, but for what is drawn at random.
_IGNORED: Final = frozenset({"flash_attention", "renorm_momentum", "seed", "use_cudnn"})
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        "antialias": (False,),
        "autocast": (True,),
        "bounding_box_format": (None,),
        "data_format": (None, "channels_last"),
        "fill_mode": ("constant",),  # of Resizing, which then pads nothing
        "fill_value": (0, 0.0),
        "lora_alpha": (None,),
        "lora_rank": (None,),
        "optional": (False,),
        "pad_to_aspect_ratio": (False,),
        "quantization_config": (None,),
        "renorm": (False,),
        "renorm_clipping": (None,),
        "ragged": (False,),
        "rms_scaling": (False,),
        "score_mode": ("dot",),
        "sliding_window": (None,),
        "sparse": (False,),
        "use_gate": (False,),
    }
)
# Activation functions by their names here and there.
NAMED: Final[Mapping[str, str]] = MappingProxyType(
    {
        name: name
        for name in (
            "elu",
            "exponential",
            "gelu",
            "linear",
            "mish",
            "relu",
            "selu",
            "sigmoid",
            "softmax",
            "softplus",
            "softsign",
            "swish",
            "tanh",
        )
    }
    | {"silu": "swish"}
)
# Those that layers of tf_keras make together.
COMPOSITES: Final[Mapping[str, str]] = MappingProxyType(
    {name: name for name in ("hard_sigmoid", "hard_silu", "leaky_relu", "relu6")}
    | {"hard_swish": "hard_silu"}
)


def layer_class(kind: str) -> Any:
    """Returns the class of tf_keras of a kind."""
    return APPLICATION_CLASSES.get(kind) or getattr(keras.layers, kind)


def argument_names(kind: Any, base: Any) -> frozenset[str]:
    """Returns the names of the arguments that a class of layers is made with.

    Args:
      kind: The class.
      base: The class of all layers.
    """
    names = {"name"}
    for one in kind.__mro__:
        if one is base:
            return frozenset({*names, "activity_regularizer", "dtype", "trainable"})
        known = inspect.signature(one.__init__).parameters
        names |= set(known)
        if all(value.kind is not value.VAR_KEYWORD for value in known.values()):
            break
    return frozenset(names)


@functools.cache
def _accepted(kind: str) -> frozenset[str]:
    return argument_names(layer_class(kind), keras.layers.Layer)


@functools.cache
def call_arguments(kind: str) -> frozenset[str]:
    """Returns the names of the arguments that a class of tf_keras is called with."""
    if kind == "Network":
        return frozenset({"inputs", "mask", "training"})
    # Every layer takes a mask and hands it on, whether it reads it or not.
    names = inspect.signature(layer_class(kind).call).parameters
    return frozenset({*names, "mask"})


def policy_of(config: Any) -> str:
    """Returns the name of a dtype policy, which Keras 3 writes as text or object."""
    if isinstance(config, dict):
        inner = config.get("config")
        name = inner.get("name") if isinstance(inner, dict) else None
        is_plain = config.get("class_name") == "DTypePolicy" and isinstance(name, str)
        return str(name) if is_plain else str(config.get("class_name"))
    return "float32" if config is None else str(config)


def translate_argument(kind: str, key: str, value: Any) -> tuple[str, Any] | None:
    """Returns an argument under its name in tf_keras, or None if nothing hangs on it.

    Args:
      kind: The class of the layer.
      key: Name of the argument in Keras 3.
      value: Its value, as JSON.

    Raises:
      ModelError: If tf_keras has none that does the same; why, without the layer.
    """
    row = KINDS[kind]
    name = row.renamed.get(key, key)
    is_there = name in _accepted(kind) and not key.startswith("renorm")
    if is_there or key in row.renamed:
        return name, _plain(key, value)
    if key in _IGNORED or value in row.neutral.get(key, _NEUTRAL.get(key, ())):
        return None
    raise ModelError(f"has {key}={shown(value)}, which tf_keras lacks; leave it out")


def _plain(key: str, value: Any) -> Any:
    """Returns a value of a config, whose classes tf_keras makes of numbers alone."""
    try:
        check_classes(value, key)
    except ModelError as error:
        raise ModelError(
            f"has a {key} that tf_keras does not make of numbers alone; use one of "
            "Keras, or leave it out"
        ) from error
    return _without_extras(value)


def _without_extras(value: Any) -> Any:
    """Leaves out of the objects of a config what tf_keras does not know."""
    if isinstance(value, list):
        return [_without_extras(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "class_name" not in value:
        return {key: _without_extras(one) for key, one in value.items()}
    config = value.get("config")
    if isinstance(config, dict):  # a newer argument at its default
        config = {
            key: _without_extras(one) for key, one in config.items() if one is not None
        }
    return {"class_name": value["class_name"], "config": config}
