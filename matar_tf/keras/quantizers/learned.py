"""tfmot quantizers whose bit-width is a variable.

Each quantizer holds a bank with one learned step per allowed width (and output
channel, for weights) and an integer variable that says which row is in force. A
policy is applied by writing these integers, so one traced graph serves every
policy.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from matar_tf.errors import ModelError
from matar_tf.keras._compat import KerasLayer, Shape, Tensor, keras, tf, tfmot
from matar_tf.keras.quantizers import fake_quantize, watch, wrapper
from matar_tf.keras.quantizers.decay import exempt_from_decay
from matar_tf.keras.quantizers.rounding import as_kernels_round
from matar_tf.keras.quantizers.tracing import FloatTracer, active_tracer
from matar_tf.parameters import activation_range
from matar_tf.policy import ALL_BITS, check_bits
from matar_tf.scales import FREE, check_scale
from matar_tf.wide import WIDE_RANGE, wide_factor

__all__ = ["ActivationQuantizer", "MultiBitQuantizer"]

_Quantizer: Any = tfmot.quantization.keras.quantizers.Quantizer
_FAR_OFF = 4.0  # a learned step is set anew if the best one is so many times as large
_DIRTY_RATIO = 256.0  # of a sample to others, to which it would leave one 8-bit level


class MultiBitQuantizer(_Quantizer):
    """What weight and activation quantizers share: the bank and its row.

    Attributes:
      kind: ``weights`` or ``activations``: the part of a policy that it answers to.
      bits: Allowed widths, ascending.
      scale: Which steps there are: ``free`` ones, or ``power_of_two``.
      suffix: Ending of the entry's name, for the second quantizer of a kind in a layer.
      entry: Name of the policy entry that chooses the width; set by `build`.
      row: Integer variable, the index into `bits` in force, of an activation that has
        16 bits their number; set by `build`.
      log_steps: Variable, ``[len(bits), *channels]``; set by `build`.
    """

    kind = ""

    def __init__(self, bits: Sequence[int] = ALL_BITS, scale: str = FREE) -> None:
        self.bits = tuple(check_bits(width, "quantizer") for width in bits)
        self.scale = check_scale(scale, ModelError)
        self.suffix = ""
        self.entry = ""
        self.row: Tensor = None
        self.log_steps: Tensor = None
        self._layer: Any = None

    @property
    def layer(self) -> KerasLayer:
        """The Keras layer that this quantizer was built in."""
        return self._layer()

    def ranges(self) -> tuple[list[int], list[int]]:
        """Returns the lowest and the highest level of each width."""
        raise AssertionError("a subclass says which grid it uses")

    def _build_bank(
        self, name: str, layer: KerasLayer, steps: Tensor, *, trainable: bool = True
    ) -> dict[str, Tensor]:
        """Creates the variables; `steps` is an array ``[len(bits), *channels]``."""
        self._layer = weakref.ref(layer)
        self.entry = wrapper.entry_name(layer) + self.suffix
        wrapper.remember_wrapper(layer)
        wrapper.track_inner_weights(layer)
        self.row = layer.add_weight(
            f"{name}_bits_row",
            shape=(),
            dtype=tf.int32,
            initializer=keras.initializers.Constant(len(self.bits) - 1),
            trainable=False,
        )
        self.log_steps = layer.add_weight(
            f"{name}_log_steps",
            shape=steps.shape,
            dtype=tf.float32,
            initializer=lambda shape, dtype=None, **_: tf.math.log(steps),
            trainable=trainable,
        )
        exempt_from_decay(self.log_steps)
        return {"row": self.row, "log_steps": self.log_steps}

    def _quantize(
        self,
        x: Tensor,
        elems_per_step: Any,
        *,
        wide_factor: float | None = None,
        fused: bool = False,
    ) -> Tensor:
        qmins, qmaxs = self.ranges()
        row = self.row
        if wide_factor is not None:
            low, high = WIDE_RANGE
            qmins, qmaxs = [*qmins, low], [*qmaxs, high]
        elif fused:  # 16 bits are trained as the widest width
            row = tf.minimum(row, len(qmins) - 1)
        # LSQ's gradient scale, 1 / sqrt(elements * qmax): without it the many
        # elements of a tensor would move their one step much faster than weights.
        scales = [(elems_per_step * qmax) ** -0.5 for qmax in qmaxs]
        return fake_quantize.quantize_row(
            x,
            self.log_steps,
            row,
            qmins,
            qmaxs,
            scales,
            wide_factor=wide_factor,
            fused=fused,
            scale=self.scale,
        )

    def step(self) -> Tensor:
        """Returns the step in force as a tensor: ``[*channels]``."""
        return self._step_of(self.row)

    def _step_of(self, row: Any) -> Tensor:
        return fake_quantize.steps_of(tf.gather(self.log_steps, row), self.scale)

    def all_steps(self) -> np.ndarray:
        """Returns the steps of every width, ``[len(bits), *channels]``.

        Computed as `step` computes them, to the last bit: another exponential may
        round differently, and a bias that lies between two counts would fall on the
        other side.
        """
        rows = range(len(self.bits))
        return np.stack([self._step_of(row).numpy() for row in rows])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        # Quantizers of earlier versions have no scale, and stay as they were.
        own = {} if self.scale == FREE else {"scale": self.scale}
        return {"bits": list(self.bits), **own}


@keras.utils.register_keras_serializable(package="matar_tf")
class ActivationQuantizer(MultiBitQuantizer):
    """Quantizes an activation tensor, one step per width.

    Levels ``0 .. 2**n - 1``, or ``-2**(n - 1) .. 2**(n - 1) - 1`` if `signed`. The
    steps start at the least squared error of the first training batch, or of the
    samples given to `matar_tf.calibrate`; until then the tensor passes unchanged
    through evaluation. On several replicas (``tf.distribute``) that must come first.
    Training sets steps anew that do not fit most batches, as `watch` says.

    Args:
      bits: Allowed widths, ascending, each in 2..8.
      signed: Whether the tensor has values below 0.
      trainable: Whether the steps are learned, or stay as they were initialised.
      scale: Which steps there are: ``free`` ones, or ``power_of_two``.
    """

    kind = "activations"

    def __init__(
        self,
        bits: Sequence[int] = ALL_BITS,
        signed: bool = True,
        trainable: bool = True,
        scale: str = FREE,
    ) -> None:
        super().__init__(bits, scale)
        self.signed = signed
        self.trainable = trainable
        self.initialized: Tensor = None

    def ranges(self) -> tuple[list[int], list[int]]:
        """Returns the lowest and the highest level of each width."""
        pairs = [activation_range(bits, signed=self.signed) for bits in self.bits]
        return [low for low, _ in pairs], [high for _, high in pairs]

    def build(
        self, tensor_shape: Shape, name: str, layer: KerasLayer
    ) -> dict[str, Tensor]:
        """Creates the bank in `layer`; called by tfmot's wrapper."""
        variables = self._build_bank(
            name, layer, tf.ones(len(self.bits)), trainable=self.trainable
        )
        self.initialized = layer.add_weight(
            f"{name}_initialized",
            shape=(),
            dtype=tf.int32,
            initializer="zeros",
            trainable=False,
        )
        return {**variables, "initialized": self.initialized}

    def optimal_steps(self, values: Tensor) -> Tensor:
        """Returns the steps of all widths with the least squared error on values.

        A tensor without any value tells nothing, and tiny steps could not be exported:
        its steps are those of a largest magnitude of 1.

        Args:
          values: Of one tensor, or of several batches, ``[num_values]``.
        """
        low, high = self.ranges()
        return fake_quantize.optimal_steps(
            tf.ensure_shape(values, (None,)),
            tf.constant(low, tf.float32),
            tf.constant(high, tf.float32),
            if_zero=1.0,
            scale=self.scale,
        )

    def set_from(self, tensors: Sequence[Tensor]) -> None:
        """Sets the steps to the widest of those that fit some tensors, for good.

        Args:
          tensors: Values of each, ``[num_values]``. Those of zeros need nothing.
        """
        alive = [one for one in tensors if np.any(one)]
        steps = [self.optimal_steps(one) for one in alive or tensors[:1]]
        self.log_steps.assign(tf.math.log(tf.reduce_max(steps, axis=0)))
        self.initialized.assign(watch.SET_STATE if alive else watch.SILENT_STATE)

    def __call__(
        self, inputs: Tensor, training: Any, weights: Mapping[str, Tensor], **_: Any
    ) -> Tensor:
        """Returns the activation on the grid of the width in force."""
        tracer = active_tracer()
        if isinstance(tracer, FloatTracer):
            return tracer.activation(self, inputs)
        if tracer is not None:
            exact = as_kernels_round(inputs, self.layer, self)
            return tracer.activation(self, exact)
        if not training:
            return tf.cond(
                self.initialized > 0,
                lambda: self.fake_quantize(as_kernels_round(inputs, self.layer, self)),
                lambda: tf.identity(inputs),
            )

        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            self._check_calibrated()
            return self.fake_quantize(inputs, training=True)

        with tf.control_dependencies([self._look(inputs)]):
            return self.fake_quantize(inputs, training=True)

    def _look(self, inputs: Tensor) -> Tensor:
        """Sets the steps where there are none, or where they do not fit the tensor.

        Returns:
          The new state of the grid; see `matar_tf.keras.quantizers.watch`.
        """
        # A ReLU of its own, or the one before would be computed in every step.
        x = inputs if self.signed else _before_relu(inputs)
        rectify = tf.identity if self.signed else tf.nn.relu
        state = tf.identity(self.initialized)
        values = watch.some_values(x)
        low, high = (ends[-1] for ends in self.ranges())
        found = watch.misfit(
            rectify(values),
            self._step_of(len(self.bits) - 1),
            low,
            high,
            is_fixed=not self.trainable,
            # Of an input nothing may be overlooked, and it is small.
            largest=None if self.trainable else tf.reduce_max(tf.abs(rectify(x))),
        )
        after = tf.cond(
            watch.wants_steps(state, found),
            lambda: self._set_from(rectify(x), state),
            lambda: watch.next_state(state, found),
        )
        if not self.signed and x is inputs:
            after = watch.flag_negative(after, values)
        return self.initialized.assign(after)

    def _set_from(self, x: Tensor, state: Tensor) -> Tensor:
        """Sets the steps from a batch of training; returns the state after that."""
        flat = tf.reshape(x, (tf.shape(x)[0], -1))
        sizes = tf.reduce_max(tf.abs(flat), axis=1)
        is_clean = sizes <= watch.largest_ordinary(sizes, _DIRTY_RATIO)
        values = fake_quantize.sample_values(
            tf.where(is_clean[:, tf.newaxis], flat, 0.0)
        )
        before, new = self.log_steps, tf.math.log(self.optimal_steps(values))
        moves = watch.has_no_values_yet(state) | self._is_far_off(new[-1], x)
        self.log_steps.assign(tf.where(moves, new, before))
        return watch.state_once_set(
            state, is_silent=tf.reduce_all(tf.equal(values, 0.0)), moves=moves
        )

    def _is_far_off(self, new: Tensor, x: Tensor) -> Tensor:
        """Returns whether the widest width's step is to become another one.

        What is learned stays unless it is far off; optimizers need time for that. It
        becomes finer only if the largest values, which are few, leave it room.
        """
        before = self.log_steps[-1]
        if not self.trainable:
            return tf.not_equal(new, before)
        step = fake_quantize.steps_of(before, self.scale)
        is_wide = tf.reduce_max(tf.abs(x)) / step < watch.unused_below(
            *(ends[-1] for ends in self.ranges())
        )
        limit = math.log(_FAR_OFF)
        return (new - before >= limit) | (is_wide & (before - new >= limit))

    def _check_calibrated(self) -> None:
        """Each of several replicas would start from steps of its own samples."""
        with tf.init_scope():
            if not int(self.initialized.numpy()):
                raise ModelError(
                    f"Expected a calibrated model to train on several replicas, but "
                    f"{self.entry!r} has seen no samples; call "
                    "matar_tf.keras.calibrate first."
                )

    def fake_quantize(self, x: Tensor, *, training: bool = False) -> Tensor:
        """Returns the activation on the grid of the width in force.

        In training by faster kernels, exact up to float32 rounding.
        """
        if training and not self.signed:
            x = _before_relu(x)
        size = x.shape[1:].num_elements()
        if size is None:  # sizes that the batch tells
            size = tf.cast(tf.reduce_prod(tf.shape(x)[1:]), tf.float32)
        factor = None if training else self._wide_factor
        return self._quantize(x, size, wide_factor=factor, fused=training)

    def is_wide(self) -> Tensor:
        """Returns whether 16 bits are in force."""
        return self.row >= len(self.bits)

    def step(self) -> Tensor:
        """Returns the step in force, a scalar."""
        last = len(self.bits) - 1
        narrow = self._step_of(tf.minimum(self.row, last))
        return narrow * tf.where(self.is_wide(), self._wide_factor, 1.0)

    @property
    def _wide_factor(self) -> float:
        return float(wide_factor(self.bits[-1], signed=self.signed))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "signed": self.signed,
            "trainable": self.trainable,
        }


def _before_relu(x: Tensor) -> Tensor:
    """Returns what a ReLU was given, if `x` is what it made of that, or `x`.

    A grid without negative levels cuts off what the ReLU does, and its gradient too.
    In a traced graph the ReLU then has no reader, and is not computed.
    """
    if tf.is_symbolic_tensor(x) and x.op.type == "Relu":
        return x.op.inputs[0]
    return x
