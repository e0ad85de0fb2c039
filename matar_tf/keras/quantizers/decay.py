"""Weight decay without learned steps: they are logarithms, and 0 is no rest for them.

Decay draws a variable to 0, which for a logarithm is a step of 1: without any gradient,
AdamW's default makes a step of 2**-6 seven times as wide in 10,000 updates.
"""

from __future__ import annotations

from typing import Any, Final

from matar_tf.keras._compat import Tensor, keras

__all__ = ["exempt_from_decay"]

_MARK: Final = "matar_exempt_from_decay"


def exempt_from_decay(variable: Tensor) -> None:
    """Lets the weight decay of Keras' optimizers leave a variable as it is."""
    # Under tf.distribute, optimizers see the parts that lie on the devices.
    for one in (variable, *getattr(variable, "values", ())):
        setattr(one, _MARK, True)


def _honour_exemptions(optimizer_kind: type[Any]) -> None:
    decays = optimizer_kind._use_weight_decay

    def use_weight_decay(optimizer: Any, variable: Tensor) -> bool:
        return not getattr(variable, _MARK, False) and decays(optimizer, variable)

    optimizer_kind._use_weight_decay = use_weight_decay


_honour_exemptions(keras.optimizers.Optimizer)
