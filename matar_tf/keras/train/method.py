"""What multi-bitwidth training does, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matar_tf.errors import ModelError
from matar_tf.keras.quantize import NORM_CONTEXT
from matar_tf.keras.train.soft_labels import check_soft_labels
from matar_tf.samplers import MixtureSampler, Sampler

__all__ = ["Method"]

_DEFAULT_SAMPLER = MixtureSampler()


@dataclass(frozen=True, kw_only=True)
class Method:
    """What makes a network good at many policies; each part can be switched off.

    Attributes:
      sampler: Draws the policy of each batch, or samplers by the epoch from which on
        they draw; see `PolicyRandomizer`. Not asked for a space of one policy.
      distillation: Share of soft labels in the loss; see `MultiBitTrainer`.
      temperature: Of the soft labels.
      teacher: Who gives them: ``float``, the network that training starts from, or
        ``sandwich``, its first policy on the same batch.
      sandwich: Policies that every step sees beside the sampler's: ``widest``,
        ``narrowest`` and names of uniform ones; each costs a pass.
      draws: Policies that the sampler draws for every step; each costs a pass.
      update_every_pass: Whether the optimizer takes a step after each pass, not one
        for their sum.
      step_rates: Factors on the learning rate of the quantizers' steps, as pairs of
        a width and a factor; see `MultiBitTrainer`.
      norm_context: Number of entries before a layer by whose widths its batch norm
        keeps statistics apart, beside its own; see `quantize_model`.
      kurtosis: Rate of a `KurtosisRegularizer` on every kernel; 0 for none.
      reestimation: Number of batches that batch norm statistics are estimated from
        again after training, on training samples, a tenth of them for a space of one
        policy; 0 to keep the moving averages.

    Raises:
      ModelError: If a field is out of its range.
    """

    sampler: Sampler | Mapping[int, Sampler] = _DEFAULT_SAMPLER
    distillation: float = 0.5
    temperature: float = 1.0
    teacher: str = "float"
    sandwich: tuple[str, ...] = ()
    draws: int = 1
    update_every_pass: bool = False
    step_rates: tuple[tuple[int, float], ...] = ()
    norm_context: int = NORM_CONTEXT
    kurtosis: float = 0.0
    reestimation: int = 400

    def __post_init__(self) -> None:
        if self.teacher not in ("float", "sandwich"):
            raise ModelError(
                f"Expected the teacher float or sandwich, got {self.teacher!r}."
            )
        check_soft_labels(self.distillation, self.temperature)
        for name, least in (
            ("draws", 1),
            ("norm_context", 0),
            ("kurtosis", 0),
            ("reestimation", 0),
        ):
            if not getattr(self, name) >= least:
                raise ModelError(
                    f"Expected a {name} of at least {least}, got {getattr(self, name)}."
                )
