"""Small random networks that cover kinds and shapes of layers, to be timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from matar_tf.tflite._schema import CheckedModel
from matar_tf.tflite.drawing import Drawing, Tensor
from matar_tf.tflite.workload import read_workload
from matar_tf.workload import Workload

__all__ = ["DrawnNetwork", "Limits", "draw_networks"]

_SIDES: Final = (6, 8, 12, 16, 24, 32, 48, 64, 96)
_CHANNELS: Final = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_UNITS: Final = (16, 32, 64, 128, 256, 512, 1024)
_CLASSES: Final = 10
_HALVINGS: Final = 8.0  # of the limits, at most
_LEAST_BYTES: Final = 1 << 13
_LEAST_SIDE: Final = 4  # of an image that is halved


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnNetwork:
    """A network to be timed.

    Attributes:
      name: Name that a file of it has.
      content: The file.
      workload: What it asks of hardware.
    """

    name: str
    content: CheckedModel
    workload: Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What drawn networks keep within, so that they fit a device.

    Attributes:
      weight_bytes: Of all kernels of a network.
      tensor_bytes: Of each tensor of 8 bits.
    """

    weight_bytes: int = 1 << 20
    tensor_bytes: int = 1 << 18


@dataclass
class _Sketch:
    """A drawing, and what there is to draw from and to keep within."""

    drawing: Drawing
    rng: np.random.Generator
    limits: Limits
    weight_bytes: int = 0

    def choose(self, values: Sequence[int]) -> int:
        return int(self.rng.choice(values))

    def has_room(self, *, kernel: int = 0, made: int = 0) -> bool:
        """Whether a kernel and a tensor of so many bytes fit; counts the kernel."""
        fits = (
            self.weight_bytes + kernel <= self.limits.weight_bytes
            and made <= self.limits.tensor_bytes
        )
        self.weight_bytes += kernel if fits else 0
        return fits


_Step: TypeAlias = Callable[[_Sketch, Tensor], Tensor]


def _conv(size: int) -> _Step:
    def step(sketch: _Sketch, x: Tensor) -> Tensor:
        stride = _stride(sketch, x)
        channels = _channels(sketch, x)
        kernel = channels * size * size * x.shape[3]
        made = channels * x.elems // x.shape[3] // stride**2
        if not sketch.has_room(kernel=kernel, made=made):
            return x
        return sketch.drawing.conv(x, channels, size, stride)

    return step


def _depthwise(sketch: _Sketch, x: Tensor) -> Tensor:
    size = sketch.choose((3, 3, 5))
    return sketch.drawing.depthwise(x, size, _stride(sketch, x))


def _separable(sketch: _Sketch, x: Tensor) -> Tensor:
    return _conv(1)(sketch, _depthwise(sketch, x))


def _transposed(sketch: _Sketch, x: Tensor) -> Tensor:
    channels, size = _channels(sketch, x), sketch.choose((2, 3, 4))
    kernel = channels * size * size * x.shape[3]
    made = 4 * channels * x.elems // x.shape[3]
    if not sketch.has_room(kernel=kernel, made=made):
        return x
    return sketch.drawing.transposed(x, channels, size)


def _pair(name: str) -> _Step:
    def step(sketch: _Sketch, x: Tensor) -> Tensor:
        y = sketch.drawing.depthwise(x, 3, 1)
        return sketch.drawing.pair(name, y, x)

    return step


def _gate(sketch: _Sketch, x: Tensor) -> Tensor:
    """Multiplies each channel by a number, as squeeze and excitation does."""
    y = sketch.drawing.pointwise("LOGISTIC", sketch.drawing.mean(x))
    return sketch.drawing.pair("MUL", x, y)


def _concat(sketch: _Sketch, x: Tensor) -> Tensor:
    if not sketch.has_room(made=2 * x.elems):
        return x
    return sketch.drawing.concat(sketch.drawing.depthwise(x, 3, 1), x)


def _pool(name: str) -> _Step:
    def step(sketch: _Sketch, x: Tensor) -> Tensor:
        size = sketch.choose((2, 3))
        return sketch.drawing.pool(name, x, size, _stride(sketch, x))

    return step


def _mean(sketch: _Sketch, x: Tensor) -> Tensor:
    return sketch.drawing.pair("ADD", x, sketch.drawing.mean(x))


def _pointwise(*names: str) -> _Step:
    def step(sketch: _Sketch, x: Tensor) -> Tensor:
        name = names[int(sketch.rng.integers(len(names)))]
        return sketch.drawing.requantized(sketch.drawing.pointwise(name, x))

    return step


def _transpose(sketch: _Sketch, x: Tensor) -> Tensor:
    return sketch.drawing.transpose(x)


def _pad(sketch: _Sketch, x: Tensor) -> Tensor:
    made = x.shape[3] * (x.shape[1] + 2) * (x.shape[2] + 2)
    return sketch.drawing.pad(x) if sketch.has_room(made=made) else x


def _resize(sketch: _Sketch, x: Tensor) -> Tensor:
    if not sketch.has_room(made=4 * x.elems):
        return x
    return sketch.drawing.resize(x)


# What every network is of, and what some have besides.
_COMMON: Final = (_conv(3), _conv(1), _depthwise, _separable)
_OTHERS: Final = (
    (_pair("ADD"),),
    (_pool("MAX_POOL_2D"),),
    (_mean, _gate),
    (_conv(5), _conv(7)),
    (_pool("AVERAGE_POOL_2D"),),
    (_pointwise("LOGISTIC", "TANH", "LEAKY_RELU"),),
    (_pair("MUL"), _gate),
    (_concat,),
    (_transposed,),
    (_pointwise("SOFTMAX"),),
    (_resize,),
    (_transpose,),
    (_pad,),
    (_pointwise("GELU", "ELU", "EXP"),),
    (_pair("MAXIMUM"),),
)
_NUM_OTHERS: Final = 3  # of a network
_SHARE_OF_OTHERS: Final = 0.4  # of its steps
_DENSE_EVERY: Final = 8  # networks, one has dense layers alone


def draw_networks(
    number: int, *, seed: int = 0, limits: Limits | None = None
) -> list[DrawnNetwork]:
    """Returns random networks, each of a few kinds of layers.

    Args:
      number: How many.
      seed: Seed of shapes and weights.
      limits: What they keep within; None for those of a small computer.
    """
    return [
        _draw(place, np.random.default_rng([seed, place]), limits or Limits())
        for place in range(number)
    ]


def _draw(place: int, rng: np.random.Generator, limits: Limits) -> DrawnNetwork:
    share = 2.0 ** -rng.uniform(0.0, _HALVINGS)
    own = Limits(
        weight_bytes=max(int(share * limits.weight_bytes), _LEAST_BYTES),
        tensor_bytes=max(int(share * limits.tensor_bytes), _LEAST_BYTES),
    )
    sketch = _Sketch(Drawing(rng), rng, own)
    is_dense = place % _DENSE_EVERY == _DENSE_EVERY - 1
    x = _dense_layers(sketch) if is_dense else _image_layers(sketch, place)
    template = sketch.drawing.finish(x)
    return DrawnNetwork(
        name=f"network_{place:03d}",
        content=template.content,
        workload=read_workload(template),
    )


def _dense_layers(sketch: _Sketch) -> Tensor:
    x = sketch.drawing.input(sketch.choose(_UNITS))
    for _ in range(int(sketch.rng.integers(2, 9))):
        units = sketch.choose(_UNITS)
        if sketch.has_room(kernel=units * x.elems):
            x = sketch.drawing.dense(x, units)
    return sketch.drawing.dense(x, _CLASSES)


def _image_layers(sketch: _Sketch, place: int) -> Tensor:
    rng = sketch.rng
    side = sketch.choose(_SIDES)
    while _CHANNELS[0] * side * side > sketch.limits.tensor_bytes:
        side //= 2
    x = sketch.drawing.input(side, side, sketch.choose((1, 3, 3)))
    room = sketch.limits.tensor_bytes // (side * side)
    channels = sketch.choose([one for one in _CHANNELS[:6] if one <= room])
    stride = sketch.choose((1, 2)) if side > _LEAST_SIDE else 1
    x = sketch.drawing.conv(x, channels, 3, stride)
    # Each comes in its turn, so that few networks have them all.
    first = _OTHERS[place % len(_OTHERS)]
    more = rng.choice(len(_OTHERS), _NUM_OTHERS - 1, replace=False)
    others = [*first, *(step for one in more for step in _OTHERS[one])]
    for _ in range(int(rng.integers(3, 13))):
        steps = others if rng.random() < _SHARE_OF_OTHERS else _COMMON
        x = steps[int(rng.integers(len(steps)))](sketch, x)
    x = sketch.drawing.mean(x)
    x = sketch.drawing.reshape(x, (x.elems,))
    return sketch.drawing.dense(x, _CLASSES)


def _stride(sketch: _Sketch, x: Tensor) -> int:
    return sketch.choose((1, 1, 2)) if x.shape[1] > _LEAST_SIDE else 1


def _channels(sketch: _Sketch, x: Tensor) -> int:
    """Returns a number of channels that is not far from that of an image."""
    now = max(x.shape[3], _CHANNELS[0])
    return sketch.choose([one for one in _CHANNELS if now <= 2 * one <= 8 * now])
