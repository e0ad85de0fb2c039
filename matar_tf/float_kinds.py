"""Layer kinds that no integer kernel computes: rows of `matar_tf.layer_kinds`.

They stay in float; their kernels are quantized all the same.
"""

from __future__ import annotations

from typing import Final

from matar_tf.layer_rows import KernelLayout, KernelStorage, LayerKind

__all__ = ["FLOAT_KINDS"]

_TRANSPOSED = KernelStorage(attribute="kernel", layout=KernelLayout.TRANSPOSED)
_RECURRENT = ("kernel", "recurrent_kernel")
_EMBEDDINGS = KernelStorage(attribute="embeddings", layout=KernelLayout.TABLE)


def _float(*kernels: KernelStorage | str, inner: tuple[str, ...] = ()) -> LayerKind:
    stored = (
        KernelStorage(attribute=one, layout=KernelLayout.CONV)
        if isinstance(one, str)
        else one
        for one in kernels
    )
    return LayerKind(is_float=True, float_kernels=tuple(stored), inner=inner)


FLOAT_KINDS: Final = {
    "AdditiveAttention": _float(),
    "Attention": _float(),
    "Bidirectional": _float(inner=("forward_layer", "backward_layer")),
    "CenterCrop": _float(),
    "Conv3D": _float("kernel"),
    "Conv3DTranspose": _float(_TRANSPOSED),
    **dict.fromkeys(
        ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), _float(inner=("cell",))
    ),
    "ConvLSTMCell": _float(*_RECURRENT),
    "Cropping3D": _float(),
    "Dot": _float(),
    "Embedding": _float(_EMBEDDINGS),
    "GRU": _float(inner=("cell",)),
    "GRUCell": _float(*_RECURRENT),
    "GroupNormalization": _float(),
    "LSTM": _float(inner=("cell",)),
    "LSTMCell": _float(*_RECURRENT),
    "LayerNormalization": _float(),
    "Masking": _float(),
    "RNN": _float(inner=("cell",)),
    "Resizing": _float(),
    "SimpleRNN": _float(inner=("cell",)),
    "SimpleRNNCell": _float(*_RECURRENT),
    "SpatialDropout3D": _float(),
    "ThresholdedReLU": _float(),
    "UnitNormalization": _float(),
    "UpSampling3D": _float(),
    "ZeroPadding3D": _float(),
}
