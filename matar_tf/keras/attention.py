"""Attention proper: what stands between the projections of queries, keys and values."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

from matar_tf.keras._compat import Shape, Tensor, keras, tf

__all__ = ["AttentionCore"]


@keras.utils.register_keras_serializable(package="matar_tf")
class AttentionCore(keras.layers.Layer):
    """What `MultiHeadAttention` does between its projections, in float.

    ``softmax(q k^T / sqrt(size)) v`` of each head (Vaswani et al., "Attention is all
    you need", NeurIPS 2017). Reads a list: queries, values and keys of all heads, shape
    ``[batch, ..., heads * size]``, and maybe a mask of the scores, true where a query
    may look, which broadcasts over heads. Masks that Keras keeps with the tensors hide
    as they do in `MultiHeadAttention`.

    Args:
      num_heads: Number of heads.
      dropout: Share of the scores that is dropped in training.
      attention_axes: Axes over which queries look; None for all between samples and
        channels.
      is_causal: Whether a query sees what is not after it alone.
      is_robust: Whether hidden scores are set, not lowered, as Keras'
        ``softmax_robust_masking``.
      returns_scores: Whether the scores come second.
    """

    def __init__(
        self,
        num_heads: int,
        dropout: float = 0.0,
        attention_axes: Sequence[int] | None = None,
        is_causal: bool = False,
        is_robust: bool = False,
        returns_scores: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_heads = num_heads
        self.dropout = dropout
        self.attention_axes = attention_axes
        self.is_causal = is_causal
        self.is_robust = is_robust
        self.returns_scores = returns_scores

    def build(self, input_shape: Shape) -> None:
        """Makes the softmax and the dropout for the axes."""
        rank = len(input_shape[0])
        axes = self.attention_axes or range(1, rank - 1)
        self._axes = tuple(axis % (rank + 1) for axis in axes)
        softmax: Any = keras.layers.Softmax
        self._softmax = softmax(
            tuple(range(-len(self._axes), 0)), robust_masking=self.is_robust
        )
        self._drop = keras.layers.Dropout(self.dropout)
        super().build(input_shape)

    def call(self, inputs: Sequence[Tensor], training: Any = None) -> Any:
        """Returns what the queries see, shape ``[batch, ..., heads * size]``."""
        query, value, key = (self._split(one) for one in inputs[:3])
        query = query * (1.0 / math.sqrt(query.shape[-1]))
        scoring, combining = self._equations(len(query.shape))
        scores = tf.einsum(scoring, key, query)
        scores = self._softmax(scores, self._mask(inputs, len(scores.shape)))
        dropped = self._drop(scores, training=training)
        seen = _merged(tf.einsum(combining, dropped, value))
        return (seen, scores) if self.returns_scores else seen

    def _split(self, tensor: Tensor) -> Tensor:
        """Returns a tensor with an axis for its heads."""
        size = tensor.shape[-1] // self.num_heads
        return tf.reshape(tensor, [*_sizes(tensor, -1), self.num_heads, size])

    def _equations(self, rank: int) -> tuple[str, str]:
        """Returns how scores are made, and what is seen: axes by letters."""
        query = string.ascii_lowercase[:rank]
        key = "".join(
            letter.upper() if axis in self._axes else letter
            for axis, letter in enumerate(query)
        )
        own = [query[axis] for axis in range(rank - 1) if axis not in self._axes]
        others = [one[axis] for one in (query, key) for axis in self._axes]
        scores = "".join([*own, *others])
        return f"{key},{query}->{scores}", f"{scores},{key}->{query}"

    def _mask(self, inputs: Sequence[Tensor], rank: int) -> Tensor | None:
        """Returns where queries may look, of as many axes as the scores have."""
        kept = [getattr(one, "_keras_mask", None) for one in inputs[:3]]
        places = (..., tf.newaxis), (slice(None), tf.newaxis), (slice(None), tf.newaxis)
        found = [
            tf.cast(mask, tf.bool)[place]
            for mask, place in zip(kept, places, strict=True)
            if mask is not None
        ]
        if self.is_causal:
            sizes = [tf.shape(one)[1] for one in inputs[:2]]
            ones = tf.ones((1, *sizes), tf.bool)
            found.append(tf.linalg.band_part(ones, -1, 0))
        # As Keras: alone, a mask of the caller's may be of numbers.
        given = list(inputs[3:])
        if found:
            given = [tf.cast(one, tf.bool) for one in given]
        mask = None
        for one in (*found, *given):
            mask = one if mask is None else mask & one
        if mask is not None:
            for _ in range(rank - len(mask.shape)):
                mask = tf.expand_dims(mask, -2 * len(self._axes) - 1)
        return mask

    def compute_mask(self, inputs: Sequence[Tensor], mask: Any = None) -> Any:
        """Returns the mask of the queries."""
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "attention_axes": self.attention_axes and list(self.attention_axes),
            "is_causal": self.is_causal,
            "is_robust": self.is_robust,
            "returns_scores": self.returns_scores,
        }


def _merged(tensor: Tensor) -> Tensor:
    """Returns a tensor of heads with their values side by side."""
    channels = tensor.shape[-2] * tensor.shape[-1]
    return tf.reshape(tensor, [*_sizes(tensor, -2), channels])


def _sizes(tensor: Tensor, last: int) -> list[Any]:
    """Returns the sizes of a tensor's axes up to one, for a reshape."""
    known = list(tensor.shape[:last])
    if known.count(None) > 1:
        told = tf.shape(tensor)
        return [told[axis] if one is None else one for axis, one in enumerate(known)]
    return [-1 if one is None else one for one in known]
