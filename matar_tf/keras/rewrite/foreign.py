"""What to do about a layer of a kind that has no row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from matar_tf.keras._compat import KerasLayer, keras
from matar_tf.keras.quantizers.configs import kind_of
from matar_tf.keras.quantizers.own_kinds import own_kind_of
from matar_tf.layer_kinds import LAYER_KINDS

__all__ = ["why_foreign"]

_CONVOLVE = "use convolutions over time, or dense layers"
_NORMALISE = "use BatchNormalization, which costs nothing at inference, and train anew"
_BEFORE = "do it to the samples, before they reach the network"
_BARE = "call the layer inside it on the tensor itself"
_FLAT = "use layers of one or two dimensions"
_ANY_CODE = "write what it computes as layers, or with operators on tensors"
_OUTSIDE = (
    "leave it out, or compute it outside of the network, on samples before or on "
    "outputs after it"
)
_ADVICE: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            *("AbstractRNNCell", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "GRU"),
            *("GRUCell", "LSTM", "LSTMCell", "RNN", "SimpleRNN", "SimpleRNNCell"),
            *("AdditiveAttention", "Attention", "MultiHeadAttention"),
        ),
        _CONVOLVE,
    ),
    **dict.fromkeys(
        ("GroupNormalization", "LayerNormalization", "UnitNormalization"), _NORMALISE
    ),
    **dict.fromkeys(
        (
            *("CategoryEncoding", "CenterCrop", "Discretization", "Embedding"),
            *("HashedCrossing", "Hashing", "IntegerLookup", "Masking", "RandomCrop"),
            *("Resizing", "StringLookup", "TextVectorization"),
        ),
        _BEFORE,
    ),
    **dict.fromkeys(("SpectralNormalization", "TimeDistributed"), _BARE),
    "Lambda": _ANY_CODE,
}


def why_foreign(layer: KerasLayer, name: str) -> str:
    """Returns why a layer of a kind without a row is refused, and the way round.

    Args:
      layer: The layer.
      name: Its name, in a model inside the model its path.
    """
    # Keras' name for a function of TensorFlow that was called on a tensor.
    kind = getattr(layer, "symbol", None) or kind_of(layer)
    return (
        f"Expected layers that integer kernels compute, got {name!r} ({kind}); "
        f"{_advice(layer)}."
    )


def _advice(layer: KerasLayer) -> str:
    kind = type(layer).__name__
    if own_kind_of(layer) is not None:
        return (
            "its class is registered, so its kernels are quantized; register it with "
            "like= if it computes what a layer of Keras' does"
        )
    if getattr(keras.layers, kind, None) is type(layer):
        return _ADVICE.get(kind, _FLAT if kind.endswith("3D") else _OUTSIDE)
    if type(layer).__module__.startswith("tf_keras."):
        return _OUTSIDE  # of an operator on tensors
    known = {name.lower(): name for name, row in LAYER_KINDS.items() if not row.is_ours}
    for one in type(layer).__mro__:
        name = known.get(one.__name__.lower())
        if name is not None:
            return (
                f"use {name} itself if that computes the same, or register its class: "
                "matar_tf.register_layer_kind"
            )
    return (
        "build it of layers of tf_keras, or register its class, which quantizes its "
        "kernels: matar_tf.register_layer_kind"
    )
