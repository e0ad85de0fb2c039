"""Planning where a laid-out model is quantized, and which widths are allowed there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matar_tf.errors import PolicyError, did_you_mean
from matar_tf.keras._compat import keras
from matar_tf.keras.layers import InputQuantize, MultiBitBatchNormalization
from matar_tf.keras.quantizers.configs import (
    FIXED_GRID,
    GLOBAL_AVERAGES,
    GRID_OF,
    INPUT_GRID,
    MatarQuantizeConfig,
    activation_name,
    is_nonnegative,
    kernel_attribute,
)
from matar_tf.keras.rewrite.kinds import (
    AVERAGE_POOLS,
    COMPUTE,
    FIXED_GRID_ACTIVATIONS,
    FUSED_ACTIVATIONS,
    NORMS,
    consumers_of,
    is_activation,
    is_identity,
    is_relu,
    keeps_grid,
    nodes_of,
    parents_of,
)
from matar_tf.keras.rewrite.layout import Layout
from matar_tf.keras.rewrite.replacements import Context
from matar_tf.policy import ALL_BITS, MAX_BITS
from matar_tf.space import PolicySpace

__all__ = ["Plan", "apply_space", "plan_layout"]

_L = keras.layers


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where a laid-out model is quantized.

    Attributes:
      configs: The config of each layer that tfmot is to wrap, by layer name.
      space: The widths of each policy entry.
      above: Kind and name of the policy entries before each compute layer, the
        nearest first, by layer name.
    """

    configs: Mapping[str, MatarQuantizeConfig]
    space: PolicySpace
    above: Mapping[str, Sequence[tuple[str, str]]]

    def contexts(self, size: int) -> dict[str, Context]:
        """Returns kind, name and widths of the nearest entries before each layer.

        Args:
          size: How many at most; entries without a choice are left out.
        """
        found: dict[str, Context] = {}
        for layer, entries in self.above.items():
            widths = [
                (kind, name, getattr(self.space, kind)[name]) for kind, name in entries
            ]
            found[layer] = [one for one in widths if len(one[2]) > 1][:size]
        return found


def plan_layout(
    layout: Layout,
    *,
    given: Mapping[str, MatarQuantizeConfig | None] | None = None,
    signed_inputs: bool = True,
) -> Plan:
    """Decides where a laid-out model is quantized, and the default policy space.

    First and last compute layer, network input, the last compute layer's input and
    the output stay at 8 bits, and so do tensors that no compute layer reads, such as
    the addends of a sum: fewer bits there make no multiplication cheaper. Everything
    else may take 2..8.

    Args:
      layout: What `lay_out` returned.
      given: The layers to quantize, by original name, each with a config that the
        user chose for it or None; None for all layers.
      signed_inputs: Whether the samples have values below 0.

    Returns:
      The plan.
    """
    return _Planner(layout, given, signed_inputs).plan()


class _Planner:
    """Walks a laid-out model once and collects what `Plan` holds."""

    def __init__(
        self,
        layout: Layout,
        given: Mapping[str, MatarQuantizeConfig | None] | None,
        signed_inputs: bool,
    ) -> None:
        self._layout = layout
        self._given = given
        self._consumers = consumers_of(layout.model)
        self._order = [node.outbound_layer for node in nodes_of(layout.model)]
        self._nonnegative: dict[str, bool] = {}
        for layer in self._order:
            self._nonnegative[layer.name] = self._is_nonnegative(layer, signed_inputs)
        # ReLUs that the operation before them computes; others keep their input's grid.
        fused = map(self._fused_relu, self._order)
        self._fused = {layer.name for layer in fused if layer is not None}
        # Tensors that share a grid: the layer that owns it, by the name of each.
        self._owners: dict[str, str] = {}
        self._passing: set[str] = set()  # concatenations that pass a shared grid on
        self._share_grids()

    def plan(self) -> Plan:
        quantized = [layer for layer in self._order if self._is_quantized(layer)]
        fixed_weights, fixed_tensors = self._fixed(quantized)
        configs: dict[str, MatarQuantizeConfig] = {}
        weights: dict[str, tuple[int, ...]] = {}
        activations: dict[str, tuple[int, ...]] = {}
        entry_of: dict[str, str] = {}  # of the tensor that a layer makes
        for layer in quantized:
            if isinstance(layer, InputQuantize):
                activations[layer.entry] = (MAX_BITS,)
                entry_of[layer.name] = layer.entry
                continue
            config = self._config(
                layer,
                (MAX_BITS,) if layer.name in fixed_weights else ALL_BITS,
                (MAX_BITS,) if layer.name in fixed_tensors else ALL_BITS,
            )
            if config is None:
                continue
            configs[layer.name] = config
            for kind, name, bits in config.entries(layer):
                entries = weights if kind == "weights" else activations
                entries[name] = bits
                if kind == "activations":
                    entry_of[layer.name] = name
        return Plan(
            configs=configs,
            space=PolicySpace(weights=weights, activations=activations),
            above=self._above(quantized, weights, entry_of),
        )

    def _above(
        self,
        quantized: list[Any],
        weights: Mapping[str, tuple[int, ...]],
        entry_of: Mapping[str, str],
    ) -> dict[str, list[tuple[str, str]]]:
        """Returns the entries before each compute layer, by distance in layers."""
        found: dict[str, list[tuple[str, str]]] = {}
        for start in quantized:
            if not isinstance(start, COMPUTE):
                continue
            entries: dict[tuple[str, str], None] = {}
            waiting, seen = list(parents_of(start)), set[str]()
            while waiting:
                layer = waiting.pop(0)
                if layer.name in seen or isinstance(layer, _L.InputLayer):
                    continue
                seen.add(layer.name)
                owner = self._owners.get(layer.name, str(layer.name))
                if owner in entry_of:
                    entries["activations", entry_of[owner]] = None
                if layer.name in weights:
                    entries["weights", str(layer.name)] = None
                waiting += parents_of(layer)
            found[start.name] = list(entries)
        return found

    def _config(
        self, layer: Any, weight_bits: tuple[int, ...], tensor_bits: tuple[int, ...]
    ) -> MatarQuantizeConfig | None:
        chosen = (self._given or {}).get(self._layout.origins[layer.name])
        placement = self._placement(layer)
        if chosen is None and kernel_attribute(layer) is None and placement is False:
            return None
        if chosen is not None:
            weight_bits, tensor_bits = chosen.weight_bits, chosen.activation_bits
        owner = self._owners.get(layer.name, str(layer.name))
        signed = not self._nonnegative[owner]
        return MatarQuantizeConfig(
            None if chosen is None else chosen.inner,
            weight_bits=weight_bits,
            activation_bits=tensor_bits,
            quantize_output=placement,
            signed=signed if chosen is None or chosen.signed is None else chosen.signed,
        )

    def _is_quantized(self, layer: Any) -> bool:
        if isinstance(layer, _L.InputLayer):
            return False
        if self._given is None or isinstance(layer, InputQuantize):
            return True
        return self._layout.origins[layer.name] in self._given

    def _is_nonnegative(self, layer: Any, signed_inputs: bool) -> bool:
        if isinstance(layer, InputQuantize):
            return not signed_inputs
        if is_nonnegative(layer):
            return True
        if isinstance(layer, (*COMPUTE, *NORMS, _L.InputLayer)):
            return False
        if activation_name(layer) != "linear":
            return False
        return all(self._nonnegative[above.name] for above in parents_of(layer))

    def _placement(self, layer: Any) -> bool | str:
        """Returns how the output of `layer` is quantized; see `MatarQuantizeConfig`."""
        if layer.name in self._passing:
            return False
        if layer.name in self._owners:
            owner = self._owners[layer.name]
            if self._shares_with_input(layer):
                return INPUT_GRID
            return True if owner == layer.name else f"{GRID_OF}{owner}"
        if keeps_grid(layer):
            return False
        if self._rounds_onto_input(layer):
            return INPUT_GRID
        below = self._consumers.get(layer.name, ())
        if is_activation(layer) and activation_name(layer) in FIXED_GRID_ACTIVATIONS:
            # After the last layer the float output is what the user wants.
            return FIXED_GRID if below else False
        consumer = below[0] if len(below) == 1 else None
        if isinstance(consumer, MultiBitBatchNormalization):
            return False
        if isinstance(consumer, _L.Concatenate):
            # The parts of a concatenation lie on its grid, or on a shared one.
            return isinstance(layer, InputQuantize)
        return self._fused_relu(layer) is None

    def _fused_relu(self, layer: Any) -> Any:
        """Returns the ReLU that the operation of a layer computes as well, or None."""
        is_fusable = isinstance(layer, (*COMPUTE, *NORMS, _L.Add))
        if not is_fusable or activation_name(layer) != "linear":
            return None
        below = self._consumers.get(layer.name, ())
        while len(below) == 1 and is_identity(below[0]):
            below = self._consumers.get(below[0].name, ())
        return below[0] if len(below) == 1 and is_relu(below[0]) else None

    def _rounds_onto_input(self, layer: Any) -> bool:
        """Whether a layer computes new values on the grid of its input."""
        is_free = is_relu(layer) and layer.name not in self._fused
        return is_free or isinstance(layer, AVERAGE_POOLS)

    def _share_grids(self) -> None:
        """Finds the concatenations whose parts carry one grid themselves.

        Integer concatenation wants all parts on one grid. Parts that feed nothing else
        simply take the grid of the result. If a part is also read elsewhere, or comes
        through a pool, all parts carry the grid themselves, and the concatenation
        passes it on.
        """
        for concat in self._order:
            if not isinstance(concat, _L.Concatenate):
                continue
            above = parents_of(concat)
            makers = [self._grid_maker(part) for part in above]
            if makers == above and all(
                len(self._consumers[part.name]) == 1 and part.name not in self._owners
                for part in above
            ):
                continue
            names = [
                self._owners.get(str(maker.name), str(maker.name))
                for maker in makers
                if not isinstance(maker, InputQuantize)
            ]
            if not names:
                continue
            # A global average may be on its input's grid, which it cannot own.
            averages = {one.name for one in makers if isinstance(one, GLOBAL_AVERAGES)}
            owner = next((name for name in names if name not in averages), names[0])
            joined = {name for name, other in self._owners.items() if other in names}
            for name in (*joined, *names, str(concat.name)):
                self._owners[name] = owner
            self._passing.add(concat.name)
            self._nonnegative[owner] = all(self._nonnegative[name] for name in names)

    def _shares_with_input(self, layer: Any) -> bool:
        """Whether a layer is a global average on the grid of its own input."""
        if not isinstance(layer, GLOBAL_AVERAGES):
            return False
        maker = self._grid_maker(parents_of(layer)[0])
        return self._owners.get(maker.name) == self._owners[layer.name]

    def _grid_maker(self, layer: Any) -> Any:
        """Returns the layer above that puts a tensor on its grid."""
        while keeps_grid(layer) or self._rounds_onto_input(layer):
            layer = parents_of(layer)[0]
        return layer

    def _fixed(self, quantized: list[Any]) -> tuple[set[str], set[str]]:
        """Returns the layers and the tensors that stay at 8 bits."""
        first = {
            layer.name
            for layer in quantized
            if isinstance(layer, COMPUTE)
            and isinstance(self._tensor(parents_of(layer)[0]), InputQuantize)
        }
        last: set[str] = set()
        multiplied = {
            self._tensor_name(parents_of(layer)[0])
            for layer in self._order
            if isinstance(layer, COMPUTE)
        }
        tensors = {self._tensor_name(layer) for layer in self._order} - multiplied
        for output in self._layout.model.outputs:
            layer = output.node.outbound_layer
            while is_activation(layer) and activation_name(layer) != "linear":
                if activation_name(layer) in FUSED_ACTIVATIONS:
                    break
                layer = parents_of(layer)[0]
            tensors.add(self._tensor_name(layer))
            while not isinstance(layer, COMPUTE) and len(parents_of(layer)) == 1:
                layer = parents_of(layer)[0]
            if isinstance(layer, COMPUTE):
                last.add(layer.name)
                tensors.add(self._tensor_name(parents_of(layer)[0]))
        return first | last, tensors

    def _tensor_name(self, layer: Any) -> str:
        """Returns the layer that owns the grid of what `layer` passes on, by name."""
        name = str(self._tensor(layer).name)
        return self._owners.get(name, name)

    def _tensor(self, layer: Any) -> Any:
        """Returns the layer that quantizes the tensor which `layer` passes on."""
        while not isinstance(layer, (InputQuantize, _L.InputLayer)):
            placement = self._placement(layer)
            if placement is True or len(parents_of(layer)) != 1:
                break
            if isinstance(placement, str) and placement != INPUT_GRID:
                break
            layer = parents_of(layer)[0]
        return layer


def apply_space(plan: Plan, space: PolicySpace) -> Plan:
    """Returns the plan with the widths of a space.

    Raises:
      PolicyError: If the entries of the space are not those of the model.
    """
    for field_name in ("weights", "activations"):
        here = getattr(plan.space, field_name)
        there = getattr(space, field_name)
        for name in there:
            if name not in here:
                raise PolicyError(
                    f"The policy space has the {field_name} entry {name!r}, which "
                    f"matches nothing in this model. {did_you_mean(name, here)}"
                )
        for name in here:
            if name not in there:
                raise PolicyError(
                    f"The policy space has no {field_name} entry for {name!r} of this "
                    "model; start from matar_tf.policy_space(model)."
                )
    configs = {
        name: MatarQuantizeConfig(
            config.inner,
            weight_bits=space.weights.get(name, config.weight_bits),
            activation_bits=space.activations.get(name, config.activation_bits),
            quantize_output=config.quantize_output,
            signed=config.signed,
        )
        for name, config in plan.configs.items()
    }
    return Plan(configs=configs, space=space, above=plan.above)
