"""One training step under several policies, with soft labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matar_tf.errors import ModelError
from matar_tf.keras._compat import KerasModel, Tensor, in_keras_format, keras, tf
from matar_tf.keras.policies import PolicySetter, policy_setter
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.train.soft_labels import (
    Head,
    by_output,
    check_logits,
    check_same_outputs,
    check_soft_labels,
    heads_of,
)
from matar_tf.policy import ALL_BITS, Policy
from matar_tf.space import PolicySpace

__all__ = ["MultiBitTrainer"]

_LossScaleOptimizer: Any = keras.mixed_precision.LossScaleOptimizer


class MultiBitTrainer(keras.Model):
    """Trains a multi-bitwidth model; compile and fit it in the model's place.

    A plain ``fit`` of the multi-bitwidth model minimises the labels' loss under the
    policy in force. This one can add more, each alone or together:

    * **Soft labels**: ``(1 - d) * loss(labels) + d * T**2 * KL(teacher || student)``
      with both softened by the temperature ``T`` (Hinton et al., 2015), and both by
      the samples' weights. The teacher is a float network, or, in place, the sandwich's
      first policy on the same batch. Of several outputs, each with its loss weight, the
      second part is a sum: of KL where the loss is a categorical cross-entropy, of the
      mean squared difference from the teacher's output elsewhere.
    * **Sandwich rule** (Yu and Huang, ICCV 2019): each step sums the gradients of the
      policy in force and of policies that never change, the widest and the narrowest
      there, others as well here.
    * **An update after every pass** instead of one for their sum (Double Rounding,
      arXiv 2502.01199): as many updates as passes from one reading of the data.
    * **Rates of steps** (Adaptive learning rate scaling, arXiv 2502.01199): what an
      optimizer makes of the quantizers' learned steps is multiplied by a factor of
      their width. So it holds for any optimizer; a factor on the gradient would do
      nothing under Adam.

    The ``loss`` that Keras prints is the labels' loss, a mean over all passes; other
    metrics are those of the last pass.

    Args:
      model: The multi-bitwidth model, calibrated. Its weights are trained, and it is
        what to save and to package afterwards. For soft labels its output is logits, or
        of several that of each class.
      teacher: A float network with the same outputs, or None.
      distillation: Share ``d`` of the soft labels, 0 to 1. Without a teacher they come
        from the first policy of the sandwich.
      temperature: ``T``, above 0.
      sandwich: Policies that every step sees beside the one in force: ``widest``,
        ``narrowest`` and names of uniform ones. A model of one policy has none.
      draws: Policies that a `PolicyRandomizer` draws for every step, at least 1; a
        model of one policy takes one. Without one, all are the policy in force.
      update_every_pass: Whether the optimizer takes a step after each policy.
      step_rates: Factor on the learning rate of the quantizers' steps by their width;
        1 for a width that is not named.

    Attributes:
      sandwich: The policies of the sandwich.

    Raises:
      ModelError: If soft labels are asked for and nothing can give them, or an
        argument is out of its range.
      PolicyError: If the model does not have a policy of the sandwich.
    """

    def __init__(
        self,
        model: KerasModel,
        *,
        teacher: KerasModel | None = None,
        distillation: float = 0.0,
        temperature: float = 1.0,
        sandwich: Sequence[str] = (),
        draws: int = 1,
        update_every_pass: bool = False,
        step_rates: Mapping[int, float] | None = None,
    ) -> None:
        # By the policy, `compile` scales the loss; samples stay in float32.
        name = f"{model.name}_trainer"
        super().__init__(name=name, dtype=model.dtype_policy, autocast=False)
        check_soft_labels(distillation, temperature)
        if distillation and teacher is None and not sandwich:
            raise ModelError(
                "Expected a teacher for the soft labels: pass a float network, or a "
                'sandwich such as ("widest", "narrowest"), whose first policy teaches.'
            )
        if distillation:
            check_same_outputs(model if teacher is None else teacher, model)
        if len(model.outputs) > 1:  # by which Keras takes losses and labels
            self.output_names = wrapper.output_names(model)
        self._heads: tuple[Head, ...] = (Head(is_classes=True),)
        self._names = tuple(wrapper.output_names(model))
        self._teacher_outputs = (model if teacher is None else teacher).outputs
        if draws < 1:
            raise ModelError(f"Expected at least one draw for every step, got {draws}.")
        self.multi_bit_network = model
        # Hidden in a function: Keras would take the teacher's weights for its own.
        self._teach = None if teacher is None else lambda x: teacher(x, training=False)
        self._distillation = distillation
        self._temperature = temperature
        self._setter: PolicySetter = policy_setter(model)
        alone = self._setter.space.num_policies == 1
        self.sandwich = tuple(
            _policy(self._setter.space, name) for name in (() if alone else sandwich)
        )
        self._fixed = [tf.constant(self._setter.rows(one)) for one in self.sandwich]
        # Passes under drawn policies before that of the policy in force.
        rows = self._setter.rows_in_force()
        self._drawn = [
            tf.Variable(rows, trainable=False, name=f"drawn_{number}")
            for number in range(0 if alone else draws - 1)
        ]
        self._has_drawn: Any = None
        if self._drawn:
            self._has_drawn = tf.Variable(
                tf.constant(False), trainable=False, name="has_drawn"
            )
        self._update_every_pass = update_every_pass
        self._step_factors = _step_factors(model, step_rates or {})

    @property
    def draws(self) -> int:
        """Number of policies that a callback draws for every step."""
        return len(self._drawn) + 1

    @property
    def updates_per_step(self) -> int:
        """Number of steps that the optimizer takes for every batch."""
        return self.passes_per_step if self._update_every_pass else 1

    @property
    def passes_per_step(self) -> int:
        """Number of policies that every batch is seen under, the sandwich's first."""
        return len(self.sandwich) + self.draws

    def assign_draws(self, rows: Sequence[Tensor]) -> None:
        """Puts the drawn policies of the next step in force, `draws` of them.

        Args:
          rows: What `PolicySetter.rows` returns for each.
        """
        *others, last = tf.unstack(rows, num=self.draws)
        for variable, one in zip(self._drawn, others, strict=True):
            variable.assign(one)
        if self._has_drawn is not None:
            self._has_drawn.assign(True)
        self._setter.assign_rows(last)

    def forget_draws(self) -> None:
        """Puts the policy in force in the place of those that were drawn."""
        if self._has_drawn is not None:
            self._has_drawn.assign(False)

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        **kwargs: Any,
    ) -> None:
        """Does what Keras does.

        Raises:
          ModelError: If the optimizer averages weights, and `step_rates` are given: the
            average would be of steps that moved at the full rate. If one of several
            outputs is to have soft labels of classes, and is not logits.
        """
        super().compile(optimizer, loss, metrics, loss_weights, **kwargs)
        if len(self._names) > 1 and self._distillation:
            self._heads = tuple(heads_of(self._names, loss, loss_weights))
            for head, *ends in zip(
                self._heads,
                self._teacher_outputs,
                self.multi_bit_network.outputs,
                strict=True,
            ):
                if head.is_classes:
                    check_logits(ends)
        if self._step_factors and getattr(self.optimizer, "use_ema", False):
            raise ModelError(
                "Expected an optimizer without use_ema beside step_rates, got one with "
                "it; leave one of the two out."
            )

    def call(self, inputs: Tensor, training: Any = None, mask: Any = None) -> Tensor:
        """Returns the logits under the policy in force."""
        return self.multi_bit_network(inputs, training=training)

    def get_config(self) -> Any:
        """Returns what Keras keeps of a subclassed model.

        Raises:
          NotImplementedError: If it is for a ``.keras`` file, not begun yet.
        """
        if in_keras_format():
            raise NotImplementedError(
                "Expected the multi-bitwidth model to be saved, got its trainer; save "
                "trainer.multi_bit_network as HDF5 or as a SavedModel."
            )
        return super().get_config()

    def train_step(self, data: Any) -> dict[str, Any]:
        """Takes one step; called by Keras."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        soft = None
        if self._distillation and self._teach is not None:
            soft = tf.nest.map_structure(
                lambda one: tf.cast(one, tf.float32), self._teach(x)
            )
        variables = self.multi_bit_network.trainable_variables
        gradients: list[Any] = [None] * len(variables)
        logits = None
        scales = isinstance(self.optimizer, _LossScaleOptimizer)
        scaler = self.optimizer if scales else None
        in_force = self._setter.rows_in_force()
        # The first can teach the others; the metrics are those of the last.
        drawn = [tf.where(self._has_drawn, one, in_force) for one in self._drawn]
        for rows in [*self._fixed, *drawn, in_force]:
            self._setter.assign_rows(rows)
            with tf.GradientTape() as tape:
                logits = self.multi_bit_network(x, training=True)
                loss = self._loss(x, y, sample_weight, logits, soft)
                if scaler:
                    loss = scaler.get_scaled_loss(loss)
            new = tape.gradient(loss, variables)
            if scaler:
                new = scaler.get_unscaled_gradients(new)
            if self._update_every_pass:
                self._update(new, variables)
            else:
                gradients = [_sum(*pair) for pair in zip(gradients, new, strict=True)]
            if soft is None and self._distillation:
                soft = tf.nest.map_structure(tf.stop_gradient, logits)
        self._setter.assign_rows(in_force)
        if not self._update_every_pass:
            self._update(gradients, variables)
        return self.compute_metrics(x, y, logits, sample_weight)

    def _update(self, gradients: Sequence[Tensor], variables: Sequence[Tensor]) -> None:
        before = [tf.identity(log_steps) for log_steps, _ in self._step_factors]
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        for (log_steps, factors), old in zip(self._step_factors, before, strict=True):
            log_steps.assign(old + factors * (log_steps - old))

    def _loss(
        self, x: Tensor, y: Tensor, sample_weight: Tensor, logits: Tensor, soft: Tensor
    ) -> Tensor:
        # Regularisation losses of the network's layers are in compute_loss.
        loss: Any = self.compute_loss(x, y, logits, sample_weight)
        if soft is None or not self._distillation:
            return loss
        # Keras divides the other part by the number of replicas, too.
        num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
        share = self._distillation
        total = (1.0 - share) * loss
        for head, teacher, outputs, weights in zip(
            self._heads,
            tf.nest.flatten(soft),
            tf.nest.flatten(logits),
            by_output(sample_weight, self._names),
            strict=True,
        ):
            missed = head.missed(teacher, outputs, weights, self._temperature)
            factor = head.weight * (self._temperature**2 if head.is_classes else 1.0)
            total += share * factor * (missed / num_replicas)
        return total


def assign_draws(model: KerasModel, rows: Sequence[Tensor]) -> None:
    """Puts what was drawn for one step of a model, or of its trainer, in force.

    Args:
      model: A multi-bitwidth model, which takes one policy, or its trainer.
      rows: What `PolicySetter.rows` returns for each policy.
    """
    if isinstance(model, MultiBitTrainer):
        model.assign_draws(rows)
    else:
        policy_setter(model).assign_rows(rows[0])


def _policy(space: PolicySpace, name: str) -> Policy:
    if name == "widest":
        return space.widest()
    return space.narrowest() if name == "narrowest" else space.named(name)


def _step_factors(
    model: KerasModel, rates: Mapping[int, float]
) -> list[tuple[Tensor, Tensor]]:
    """Returns the banks of steps that some rate changes, each with its factors."""
    if not all(bits in ALL_BITS and rate >= 0.0 for bits, rate in rates.items()):
        raise ModelError(
            f"Expected step_rates of at least 0 for widths in {list(ALL_BITS)}, got "
            f"{dict(rates)}."
        )
    found: list[tuple[Tensor, Tensor]] = []
    for layer in model.layers:
        for quantizer in wrapper.all_quantizers(layer):
            factors = [rates.get(bits, 1.0) for bits in quantizer.bits]
            log_steps = quantizer.log_steps
            if log_steps.trainable and any(factor != 1.0 for factor in factors):
                shape = (-1, *[1] * (len(log_steps.shape) - 1))
                found.append((log_steps, tf.reshape(tf.constant(factors), shape)))
    return found


def _sum(a: Tensor, b: Tensor) -> Tensor:
    if a is None or b is None:
        return b if a is None else a
    return tf.convert_to_tensor(a) + tf.convert_to_tensor(b)
