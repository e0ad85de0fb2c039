"""Which policy a multi-bitwidth model is under, and putting another one in force."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matar_tf.errors import ModelError
from matar_tf.keras._compat import KerasModel, Tensor, tf
from matar_tf.keras.layers import MultiBitBatchNormalization
from matar_tf.keras.quantizers import wrapper
from matar_tf.policy import WIDE_BITS, Policy
from matar_tf.results import Candidate
from matar_tf.scales import FREE, POWER_OF_TWO
from matar_tf.space import PolicySpace

__all__ = [
    "PolicySetter",
    "get_policy",
    "get_policy_space",
    "policy_setter",
    "set_policy",
]


class PolicySetter:
    """Writes policies into a model: one call of one traced function each.

    Args:
      model: A multi-bitwidth model.

    Raises:
      ModelError: If the model has no multi-bitwidth quantizers.
    """

    def __init__(self, model: KerasModel) -> None:
        self._variables: list[Tensor] = []  # each holds the rows of the next slots
        self._slots: list[tuple[str, str, dict[int, int]]] = []
        self._owned: list[int] = []  # those of quantizers, which tell a policy
        weights: dict[str, tuple[int, ...]] = {}
        activations: dict[str, tuple[int, ...]] = {}
        scales: set[str] = set()
        for layer in model.layers:
            for quantizer in wrapper.all_quantizers(layer):
                entries = weights if quantizer.kind == "weights" else activations
                entries[quantizer.entry] = quantizer.bits
                scales.add(quantizer.scale)
                entry = quantizer.kind, quantizer.entry, quantizer.bits
                self._owned.append(len(self._slots))
                self._add(quantizer.row, [entry], wide_row=len(quantizer.bits))
            inner = wrapper.inner_layer(layer)
            if isinstance(inner, MultiBitBatchNormalization):
                self._add(inner.rows, inner.entries)
        if not self._variables:
            raise ModelError(
                f"Expected a multi-bitwidth model, but {model.name!r} has no MATAR "
                "quantizers; make one with matar_tf.quantize_model."
            )
        # Some that are free are as good as all.
        scale = POWER_OF_TWO if scales == {POWER_OF_TWO} else FREE
        self.space = PolicySpace(weights=weights, activations=activations, scale=scale)
        self._assign = tf.function(self._assign_rows, autograph=False)

    def __call__(self, policy: Policy | Candidate | str | Path) -> None:
        """Puts a policy in force, in any form that `set_policy` takes.

        Raises:
          PolicyError: If the policy does not fit the model.
        """
        if isinstance(policy, Candidate):
            policy = policy.policy
        policy = self.space.policy(policy)
        self.assign_rows(self.rows(policy))

    def rows(self, policy: Policy) -> np.ndarray:
        """Returns the row of every bank under a valid policy, int32."""
        bits = {"weights": policy.weights, "activations": policy.activations}
        return np.array(
            [row_of[bits[kind][entry]] for kind, entry, row_of in self._slots], np.int32
        )

    def rows_in_force(self) -> Tensor:
        """Returns the row of every bank in force, an int32 tensor."""
        return tf.concat([tf.reshape(one, (-1,)) for one in self._variables], axis=0)

    def assign_rows(self, rows: Tensor) -> None:
        """Puts what `rows` or `rows_in_force` returned in force."""
        self._assign(tf.convert_to_tensor(rows))

    def current(self) -> Policy:
        """Returns the policy in force."""
        return self.policy(self.rows_in_force().numpy())

    def policy(self, rows: np.ndarray) -> Policy:
        """Inverts `rows`."""
        chosen: dict[str, dict[str, int]] = {"weights": {}, "activations": {}}
        for place in self._owned:
            kind, entry, row_of = self._slots[place]
            width_of = {row: width for width, row in row_of.items()}
            chosen[kind][entry] = width_of[int(rows[place])]
        return Policy(weights=chosen["weights"], activations=chosen["activations"])

    def _add(
        self,
        variable: Tensor,
        entries: Sequence[tuple[str, str, tuple[int, ...]]],
        *,
        wide_row: int | None = None,
    ) -> None:
        """Adds a variable with the rows of some entries.

        Args:
          variable: One row for each entry.
          entries: Kind, name and widths.
          wide_row: Row of activations of 16 bits; that of the widest width for None.
        """
        self._variables.append(variable)
        for kind, entry, bits in entries:
            row_of = {width: number for number, width in enumerate(bits)}
            if kind == "activations":
                row_of[WIDE_BITS] = len(bits) - 1 if wide_row is None else wide_row
            self._slots.append((kind, entry, row_of))

    def _assign_rows(self, rows: Tensor) -> None:
        start = 0
        for variable in self._variables:
            size = variable.shape.num_elements()
            variable.assign(tf.reshape(rows[start : start + size], variable.shape))
            start += size


_SETTERS: weakref.WeakKeyDictionary[Any, PolicySetter] = weakref.WeakKeyDictionary()


def policy_setter(model: KerasModel) -> PolicySetter:
    """Returns the setter of a model (or of its trainer), made at the first call."""
    model = wrapper.multi_bit_network(model)
    if model not in _SETTERS:
        _SETTERS[model] = PolicySetter(model)
    return _SETTERS[model]


def set_policy(model: KerasModel, policy: Policy | Candidate | str | Path) -> None:
    """Puts a policy in force.

    It is a `Policy`, the name of a uniform one (``w4a8``), the path of a ``.json``
    file, or one that a search found (``result.front[0]``).

    Activations of 16 bits (``w8a16``) are evaluated; training takes them for the widest
    width.

    Raises:
      PolicyError: If the policy does not fit the model.
    """
    policy_setter(model)(policy)


def get_policy(model: KerasModel) -> Policy:
    """Returns the policy in force."""
    return policy_setter(model).current()


def get_policy_space(model: KerasModel) -> PolicySpace:
    """Returns the policy space of a multi-bitwidth model."""
    return policy_setter(model).space
