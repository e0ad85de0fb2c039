"""Fake quantization on the grids that the integer model uses: pure functions.

A grid has levels ``qmin .. qmax`` and a step ``s``; a value becomes
``s * floor(clip(x / s, qmin, qmax) + 0.5)``. Steps are learned as logarithms: a
step stays positive, and an optimizer that normalises gradients (Adam) changes it
by a relative amount, whatever its size.

Gradient (LSQ, Esser et al., ICLR 2020): the straight-through estimator inside the
range, zero outside, for the input; ``round(v) - v`` inside and ``qmin`` or ``qmax``
outside, for the step, with ``v = x / s``.

Where scales are powers of two (TQT, Jain et al., MLSys 2020), a learned logarithm is
rounded to a whole one to the base of 2, with the straight-through gradient: the step's
own gradient stays that of LSQ. TQT rounds up, a range; here the nearest is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matar_tf.keras._compat import tf
from matar_tf.scales import FREE, POWER_OF_TWO

__all__ = [
    "SMALLEST_MAGNITUDE",
    "constant_steps",
    "fake_quantize",
    "kernel_steps",
    "next_powers_of_two",
    "optimal_steps",
    "quantize_row",
    "sample_values",
    "steps_of",
]

_NUM_CANDIDATES = 24  # clipping points tried when a step is initialised
SMALLEST_MAGNITUDE = 1e-6  # magnitudes below count as zero
_CANDIDATE_RATIO = 2.0**-0.25
_NUM_POWERS = 7  # of powers of two, as far down
_MANTISSA_BITS = 23  # of a float32
_BIAS, _LEAST, _LARGEST = 127, -126, 127  # of its exponent, and the ends of that
_MAX_VALUES = 2**16  # of a tensor that initialise the step of an activation
_SAMPLES_PER_ESTIMATE = 4  # one of so many tells a step's gradient in training
_raw: Any = tf.raw_ops


def fake_quantize(
    x: tf.Tensor, step: tf.Tensor, qmin: tf.Tensor, qmax: tf.Tensor
) -> tf.Tensor:
    """Quantizes and dequantizes `x` (float32) on the grid of `step`.

    Args:
      x: Any shape.
      step: Positive; a scalar, or broadcast against the last axes of `x`.
      qmin: Lowest level, a scalar.
      qmax: Highest level, a scalar.

    Returns:
      Multiples of `step`, in the shape of `x`.
    """
    return step * tf.floor(tf.clip_by_value(x / step, qmin, qmax) + 0.5)


def steps_of(log_steps: tf.Tensor, scale: str = FREE) -> tf.Tensor:
    """Returns steps of learned logarithms.

    Args:
      log_steps: Natural logarithms, any shape.
      scale: ``free``, or ``power_of_two`` for the nearest such step.
    """
    return _powers_of_two(log_steps) if scale == POWER_OF_TWO else tf.exp(log_steps)


@tf.custom_gradient
def _powers_of_two(log_steps: tf.Tensor) -> Any:
    """Returns the nearest powers of two; the gradient is that of the exponential."""
    exponents = tf.round(log_steps * (1.0 / math.log(2.0)))
    exponents = tf.cast(tf.clip_by_value(exponents, _LEAST, _LARGEST), tf.int32)
    # By its bits: an exponential may have another last one.
    steps = tf.bitcast((exponents + _BIAS) * 2**_MANTISSA_BITS, tf.float32)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return upstream * steps

    return steps, gradient


def next_powers_of_two(x: tf.Tensor) -> tf.Tensor:
    """Returns the least powers of two that are not below some numbers of float32.

    Args:
      x: At least the least normal number; what is below counts as 0, and stays that.
    """
    mask = 2**_MANTISSA_BITS - 1
    bits = tf.bitwise.bitwise_and(tf.bitcast(x, tf.int32) + mask, ~mask)
    return tf.where(x < 2.0**_LEAST, 0.0, tf.bitcast(bits, tf.float32))


@tf.custom_gradient
def _lsq(
    x: tf.Tensor,
    step: tf.Tensor,
    qmin: tf.Tensor,
    qmax: tf.Tensor,
    gradient_scale: tf.Tensor,
) -> Any:
    """`fake_quantize` with the LSQ gradient; the step's is scaled.

    Written in operations that are fast on CPUs: a masked product in the place of a
    selection, a sum of products in the place of a dot product.
    """
    v = x / step
    clipped = tf.clip_by_value(v, qmin, qmax)
    levels = tf.floor(clipped + 0.5)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        inside = tf.cast(tf.equal(clipped, v), upstream.dtype)
        axes = list(range(len(x.shape) - len(step.shape)))
        to_step = tf.reduce_sum(upstream * (levels - inside * v), axis=axes)
        return upstream * inside, to_step * gradient_scale, None, None, None

    return levels * step, gradient


def _lsq_fused(
    x: tf.Tensor,
    step: tf.Tensor,
    qmin: tf.Tensor,
    qmax: tf.Tensor,
    gradient_scale: tf.Tensor,
    bits: tf.Tensor,
    *,
    signed: bool,
) -> tf.Tensor:
    """`_lsq` for a scalar step, by TensorFlow's fused kernels.

    Large tensors are bound by memory, and this reads and writes them a third as often.
    It is exact up to float32 rounding: a value at a half may fall on its other side.
    What rounding within the range adds to the step's gradient is estimated from a
    quarter of the samples, without bias.
    """

    @tf.custom_gradient
    def quantize(x: tf.Tensor, step: tf.Tensor) -> Any:
        low, high = qmin * step, qmax * step
        quantized = _raw.QuantizeAndDequantizeV3(
            input=x,
            input_min=low,
            input_max=high,
            num_bits=bits,
            signed_input=signed,
            range_given=True,
        )

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # With 16 bits the kernel moves the ends by less than 1e-4 steps.
            to_x, below, above = _raw.FakeQuantWithMinMaxVarsGradient(
                gradients=upstream, inputs=x, min=low, max=high, num_bits=16
            )
            size = tf.shape(x)[0]
            part = -(-size // _SAMPLES_PER_ESTIMATE)
            end = tf.reshape(part, (1,))  # once: each slice would pack its own
            rounded, exact, passed = (
                tf.strided_slice(one, (0,), end, (1,)) for one in (quantized, x, to_x)
            )
            error = (rounded - exact) * passed
            share = tf.cast(size, x.dtype) / tf.cast(part, x.dtype)
            inside = share * tf.reduce_sum(error) / step
            to_step = inside + qmin * below + qmax * above
            return to_x, to_step * gradient_scale

        return quantized, gradient

    return quantize(x, step)


# Each is a keyword by itself.
def quantize_row(  # noqa: PLR0913
    x: tf.Tensor,
    log_steps: tf.Tensor,
    row: tf.Tensor,
    qmins: Sequence[float],
    qmaxs: Sequence[float],
    gradient_scales: Sequence[Any],
    *,
    wide_factor: float | None = None,
    fused: bool = False,
    scale: str = FREE,
) -> tf.Tensor:
    """Fake-quantizes with one row of a bank of steps.

    Args:
      x: Shape ``[num_samples, ..., *channels]``.
      log_steps: Natural logarithms of the steps, shape ``[num_widths, *channels]``.
      row: Which width, an int32 scalar.
      qmins: Lowest level of each width.
      qmaxs: Highest level of each width.
      gradient_scales: Factor on the gradient of each width's step, numbers or scalars.
      wide_factor: Of a row beyond those of the steps, the last of `qmins` and its like:
        its step over the last one.
      fused: Whether to take kernels that are faster, and exact up to float32 rounding
        only: for training, with one step for all of `x`, and ``2**n`` levels from 0 or
        from ``-2**(n - 1)``.
      scale: See `steps_of`.

    Returns:
      `x` on the grid of the chosen row.
    """
    steps = tf.convert_to_tensor(log_steps)
    if wide_factor is None:
        step = steps_of(_bank_row(steps, row), scale)
    else:
        last = len(qmins) - 2
        factor = tf.where(row > last, wide_factor, 1.0)
        step = steps_of(_bank_row(steps, tf.minimum(row, last)), scale) * factor
    widths = [
        (int(high) - int(low)).bit_length()
        for low, high in zip(qmins, qmaxs, strict=True)
    ]
    table = list(zip(qmins, qmaxs, gradient_scales, widths, strict=True))
    qmin, qmax, gradient_scale, bits = tf.unstack(
        tf.gather(tf.convert_to_tensor(table, tf.float32), row)
    )
    if not fused:
        return _lsq(x, step, qmin, qmax, gradient_scale)
    bits, signed = tf.cast(bits, tf.int32), qmins[0] < 0
    return _lsq_fused(x, step, qmin, qmax, gradient_scale, bits, signed=signed)


@tf.custom_gradient
def _bank_row(bank: tf.Tensor, row: tf.Tensor) -> Any:
    """Returns a row; the gradient is dense, for which optimizers take fewer kernels."""

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        chosen = tf.one_hot(row, bank.shape[0], dtype=bank.dtype)
        return tf.reshape(chosen, (-1, *[1] * (len(bank.shape) - 1))) * upstream, None

    return tf.gather(bank, row), gradient


def optimal_steps(
    x: tf.Tensor,
    qmins: tf.Tensor,
    qmaxs: tf.Tensor,
    *,
    if_zero: float = SMALLEST_MAGNITUDE,
    scale: str = FREE,
) -> tf.Tensor:
    """Returns the steps with the least squared quantization error, by search.

    Tries clipping points from the largest magnitude down to 1/54 of it.

    Args:
      x: Shape ``[num_samples, *channels]``; each channel gets its own step.
      qmins: Lowest levels, shape ``[num_widths]``.
      qmaxs: Highest levels, shape ``[num_widths]``.
      if_zero: Largest magnitude to reckon with in a channel that is all zero.
      scale: Which steps there are; see `steps_of`.

    Returns:
      Positive steps, shape ``[num_widths, *channels]``.
    """
    ones = (1,) * (len(x.shape) - 1)
    low = tf.reshape(qmins, (-1, *ones))
    high = tf.reshape(qmaxs, (-1, *ones))
    largest = tf.reduce_max(tf.abs(x), axis=0)
    largest = tf.where(largest < SMALLEST_MAGNITUDE, if_zero, largest)
    widest = largest[tf.newaxis] / tf.maximum(high, -low)
    ratio, number = _CANDIDATE_RATIO, _NUM_CANDIDATES
    if scale == POWER_OF_TWO:
        widest, ratio, number = next_powers_of_two(widest), 0.5, _NUM_POWERS

    def error(factor: tf.Tensor) -> tf.Tensor:
        step = widest * factor
        quantized = fake_quantize(
            x[tf.newaxis], step[:, tf.newaxis], low[:, tf.newaxis], high[:, tf.newaxis]
        )
        return tf.reduce_mean(tf.square(quantized - x[tf.newaxis]), axis=1)

    factors = tf.constant([ratio**i for i in range(number)])
    errors = tf.map_fn(error, factors)
    return widest * tf.gather(factors, tf.argmin(errors, axis=0))


def kernel_steps(
    kernel: tf.Tensor, qmins: tf.Tensor, qmaxs: tf.Tensor, *, scale: str = FREE
) -> tf.Tensor:
    """Returns the first steps of a kernel, ``[num_widths, *channels]``.

    Those of a kernel of zeros are of one where training takes it, of variance
    ``1 / fan_in``; tiny steps would hold it back.

    Args:
      kernel: Shape ``[fan_in, *channels]``.
      qmins: Lowest levels, shape ``[num_widths]``.
      qmaxs: Highest levels, shape ``[num_widths]``.
      scale: Which steps there are; see `steps_of`.
    """
    if tf.reduce_any(kernel != 0.0):
        return optimal_steps(kernel, qmins, qmaxs, scale=scale)
    fan_in = max(int(tf.shape(kernel)[0]), 1)
    if_zero = math.sqrt(3.0 / fan_in)
    return optimal_steps(kernel, qmins, qmaxs, if_zero=if_zero, scale=scale)


def constant_steps(
    kernel: tf.Tensor, qmaxs: tf.Tensor, *, scale: str = FREE
) -> tf.Tensor:
    """Returns the steps whose highest level is the one value that a channel has.

    Of powers of two those whose highest level is not below it.

    Args:
      kernel: Shape ``[1, *channels]``.
      qmaxs: Highest levels, shape ``[num_widths]``, with those below 0 as far.
      scale: Which steps there are; see `steps_of`.
    """
    size = tf.where(kernel == 0.0, 1.0, tf.abs(kernel))
    steps = size / tf.reshape(qmaxs, (-1, *[1] * (len(kernel.shape) - 1)))
    return next_powers_of_two(steps) if scale == POWER_OF_TWO else steps


def sample_values(x: tf.Tensor, num_tensors: int = 1) -> tf.Tensor:
    """Returns values of a tensor to set steps from, ``[num_values]``.

    Args:
      x: Any shape.
      num_tensors: Number of tensors that give such values together.
    """
    flat = tf.reshape(x, (-1,))
    # One value of each stretch, at any place of it: in each stretch at the same place
    # would be in the same channel wherever sizes are powers of two.
    stride = tf.maximum(tf.size(flat) // max(_MAX_VALUES // num_tensors, 1), 1)
    number = tf.size(flat) // stride
    places = tf.random.stateless_uniform(
        (number,), seed=(0, 0), maxval=stride, dtype=tf.int32
    )
    return tf.gather(flat, tf.range(number) * stride + places)
