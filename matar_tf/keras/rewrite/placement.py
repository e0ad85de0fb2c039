"""Planning where a laid-out network is quantized, and with which widths."""

from __future__ import annotations

from collections.abc import Mapping

from matar_tf.keras.rewrite.graph import Graph, Node
from matar_tf.keras.rewrite.kinds import (
    DEQUANTIZER,
    INPUT,
    INPUT_QUANTIZER,
    NORM,
    QUANTIZER,
    activation_row,
    grid_of,
    has_kernel,
    is_compute,
    is_global_average,
    is_identity,
    is_quantizer,
    is_relu,
    keeps_grid,
    rounds_by_itself,
    row_of,
)
from matar_tf.keras.rewrite.plan import Choice, Entries, Placement, Plan
from matar_tf.keras.rewrite.sharing import shared_kernels
from matar_tf.layer_kinds import ACTIVATIONS, GRID_OF, LAYER_KINDS
from matar_tf.operators import Grid
from matar_tf.policy import ALL_BITS, MAX_BITS
from matar_tf.space import PolicySpace

__all__ = ["plan_layout"]


def plan_layout(
    graph: Graph,
    *,
    given: Mapping[str, Choice | None] | None = None,
    signed_inputs: bool = True,
) -> Plan:
    """Decides where a laid-out network is quantized, and the default policy space.

    First and last compute layer, network input, the last compute layer's input and
    the output stay at 8 bits, and so do tensors that no compute layer reads, such as
    the addends of a sum: fewer bits there make no multiplication cheaper. Everything
    else may take 2..8.

    Args:
      graph: What `lay_out` returned.
      given: The layers to quantize, by original name, each with what the user chose
        for it or None; None for all layers.
      signed_inputs: Whether the samples have values below 0.
    """
    return _Planner(graph, given, signed_inputs).plan()


class _Planner:
    """Walks a laid-out model once and collects what `Plan` holds."""

    def __init__(
        self,
        graph: Graph,
        given: Mapping[str, Choice | None] | None,
        signed_inputs: bool,
    ) -> None:
        self._graph = graph
        self._given = given
        self._shared = shared_kernels(graph)
        self._nonnegative: dict[str, bool] = {}
        for layer in self._graph.nodes:
            self._nonnegative[layer.name] = self._is_nonnegative(layer, signed_inputs)
        # ReLUs that the operation before them computes; others keep their input's grid.
        fused = map(self._fused_relu, graph.nodes)
        self._fused = {layer.name for layer in fused if layer is not None}
        # Tensors that share a grid: the layer that owns it, by the name of each.
        self._owners: dict[str, str] = {}
        self._passing: set[str] = set()  # concatenations that pass a shared grid on
        self._share_grids()

    def plan(self) -> Plan:
        quantized = [layer for layer in self._graph.nodes if self._is_quantized(layer)]
        fixed_weights, fixed_tensors = self._fixed(quantized)
        placements: dict[str, Placement] = {}
        weights: dict[str, tuple[int, ...]] = {}
        activations: dict[str, tuple[int, ...]] = {}
        entry_of: dict[str, str] = {}  # of the tensor that a layer makes
        signed: dict[str, bool] = {}
        for layer in quantized:
            placement = self._place(
                layer,
                (MAX_BITS,) if layer.name in fixed_weights else ALL_BITS,
                (MAX_BITS,) if layer.name in fixed_tensors else ALL_BITS,
            )
            if is_quantizer(layer):
                entry = str(layer.attributes["entry"])
                activations[entry] = (MAX_BITS,)
                entry_of[layer.name] = entry
                if layer.kind == QUANTIZER and placement is not None:
                    activations[entry] = placement.activation_bits
                    signed[entry] = placement.signed
                continue
            if placement is None:
                continue
            placements[layer.name] = placement
            for kind, name, bits in self._entries(layer, placement):
                entries = weights if kind == "weights" else activations
                entries[name] = bits
                if kind == "activations":
                    entry_of[layer.name] = name
        return Plan(
            placements=placements,
            space=PolicySpace(weights=weights, activations=activations),
            above=self._above(quantized, weights, entry_of),
            shared=self._shared,
            signed=signed,
        )

    def _above(
        self,
        quantized: list[Node],
        weights: Mapping[str, tuple[int, ...]],
        entry_of: Mapping[str, str],
    ) -> dict[str, list[tuple[str, str]]]:
        """Returns the entries before each compute layer, by distance in layers."""
        found: dict[str, list[tuple[str, str]]] = {}
        for start in quantized:
            if not has_kernel(start):
                continue
            entries: dict[tuple[str, str], None] = {}
            waiting, seen = list(self._graph.parents(start)), set[str]()
            while waiting:
                layer = waiting.pop(0)
                if layer.name in seen or layer.kind == INPUT:
                    continue
                seen.add(layer.name)
                owner = self._owners.get(layer.name, layer.name)
                if owner in entry_of:
                    entries["activations", entry_of[owner]] = None
                kernel = self._shared.get(layer.name, layer.name)
                if kernel in weights:
                    entries["weights", kernel] = None
                waiting += self._graph.parents(layer)
            found[start.name] = list(entries)
        return found

    def _place(
        self, node: Node, weight_bits: tuple[int, ...], tensor_bits: tuple[int, ...]
    ) -> Placement | None:
        choice = (self._given or {}).get(node.origin)
        if node.float_reason:
            bits = choice.weight_bits if choice is not None else None
            return Placement(
                weight_bits=(),
                activation_bits=(),
                quantize_output=False,
                signed=True,
                per_channel=choice is None or choice.per_channel,
                float_bits=dict.fromkeys(node.float_entries, bits or weight_bits),
            )
        placement = self._placement(node)
        if choice is None and not has_kernel(node) and placement is False:
            return None
        signed = not self._nonnegative[self._owners.get(node.name, node.name)]
        if choice is not None:
            weight_bits = choice.weight_bits or weight_bits
            tensor_bits = choice.activation_bits or tensor_bits
            signed = signed if choice.signed is None else choice.signed
        return Placement(
            weight_bits=weight_bits,
            activation_bits=tensor_bits,
            quantize_output=placement,
            signed=signed,
            per_channel=choice is None or choice.per_channel,
        )

    def _entries(self, node: Node, placement: Placement) -> Entries:
        choice = (self._given or {}).get(node.origin)
        if node.float_reason:
            return [
                ("weights", one, bits) for one, bits in placement.float_bits.items()
            ]
        if choice is not None and choice.entries_of is not None:
            return choice.entries_of(node, placement)
        kernel = self._shared.get(node.name, node.name)
        entries: list[tuple[str, str, tuple[int, ...]]] = []
        if has_kernel(node):
            entries.append(("weights", kernel, placement.weight_bits))
        if placement.quantize_output is True:
            entries.append(("activations", node.name, placement.activation_bits))
        return entries

    def _is_quantized(self, node: Node) -> bool:
        if node.kind in (INPUT, DEQUANTIZER):
            return False
        if node.float_reason and not node.float_kernels:
            return False
        if self._given is None or is_quantizer(node):
            return True
        return node.origin in self._given

    def _is_nonnegative(self, layer: Node, signed_inputs: bool) -> bool:
        if layer.kind == INPUT_QUANTIZER:
            return not signed_inputs
        function, row = activation_row(layer), row_of(layer)
        if layer.float_reason:
            known = LAYER_KINDS.get(layer.kind)
            if known is None or known.is_float:
                return False
            function, row = ACTIVATIONS.get(layer.activation, function), known
        if function.is_nonnegative:
            return True
        if row.can_go_negative or layer.activation != "linear":
            return False
        return all(
            self._nonnegative[above.name] for above in self._graph.parents(layer)
        )

    def _placement(self, layer: Node) -> bool | str:
        """Returns how the output of `layer` is quantized; see `MatarQuantizeConfig`."""
        if layer.name in self._passing:
            return False
        if layer.kind == QUANTIZER:
            return True
        if layer.name in self._owners:
            owner = self._owners[layer.name]
            if self._shares_with_input(layer):
                return Grid.INPUT.value
            return True if owner == layer.name else f"{GRID_OF}{owner}"
        if keeps_grid(self._graph, layer):
            return False
        if self._rounds_onto_input(layer):
            return Grid.INPUT.value
        below = self._read_by(layer)
        if grid_of(self._graph, layer) is Grid.FIXED:
            # After the last layer the float output is what the user wants.
            return Grid.FIXED.value if below else False
        consumer = below[0].kind if len(below) == 1 else None
        if consumer == NORM:
            return False
        if len(below) == 1 and row_of(below[0]).joins:
            return layer.kind == INPUT_QUANTIZER or self._joined_grid(below[0], layer)
        return self._fused_relu(layer) is None

    def _joined_grid(self, join: Node, part: Node) -> bool | str:
        """Returns how a part of a concatenation is quantized that lies on its grid.

        It quantizes all of its parts in training. In evaluation each falls by the rule
        of its own kernel.
        """
        if row_of(part).joins:
            return False
        below = self._read_by(join)
        while len(below) == 1 and row_of(below[0]).joins:
            join, below = below[0], self._read_by(below[0])
        return f"{GRID_OF}{self._owners.get(join.name, join.name)}"

    def _fused_relu(self, layer: Node) -> Node | None:
        """Returns the ReLU that the operation of a layer computes as well, or None."""
        if not row_of(layer).can_fuse or layer.activation != "linear":
            return None
        below = self._read_by(layer)
        return below[0] if len(below) == 1 and is_relu(below[0]) else None

    def _read_by(self, layer: Node) -> tuple[Node, ...]:
        """Returns what reads a layer, past identities; an output that is read, too."""
        passed, below = [layer], self._graph.consumers(layer)
        while len(below) == 1 and is_identity(below[0]):
            passed, below = [*passed, *below], self._graph.consumers(below[0])
        is_output = any(one.output in self._graph.outputs for one in passed)
        return (*below, layer) if below and is_output else below

    def _rounds_onto_input(self, layer: Node) -> bool:
        """Whether a layer computes new values on the grid of its input."""
        is_fused = layer.name in self._fused
        return grid_of(self._graph, layer) is Grid.INPUT and not is_fused

    def _share_grids(self) -> None:
        """Finds the concatenations whose parts carry one grid themselves.

        Integer concatenation, as the maximum and the minimum, wants all parts on one
        grid. Parts that feed nothing else simply take the grid of the result. If a part
        is also read elsewhere, comes through a pool, or rounds by a rule of its own,
        all parts carry the grid themselves, and the concatenation passes it on.
        """
        for concat in self._graph.nodes:
            if not row_of(concat).joins:
                continue
            above = self._graph.parents(concat)
            makers = [self._grid_maker(part) for part in above]
            if makers == above and all(
                len(self._graph.consumers(part)) == 1
                and part.name not in self._owners
                and not rounds_by_itself(part)
                for part in above
            ):
                continue
            names = [
                self._owners.get(maker.name, maker.name)
                for maker in makers
                if maker.kind != INPUT_QUANTIZER
            ]
            if not names:
                continue
            # A global average may be on its input's grid, which it cannot own.
            averages = {one.name for one in makers if is_global_average(one)}
            owner = next((name for name in names if name not in averages), names[0])
            joined = {name for name, other in self._owners.items() if other in names}
            for name in (*joined, *names, concat.name):
                self._owners[name] = owner
            self._passing.add(concat.name)
            self._nonnegative[owner] = all(self._nonnegative[name] for name in names)

    def _shares_with_input(self, layer: Node) -> bool:
        """Whether a layer is a global average on the grid of its own input."""
        if not is_global_average(layer):
            return False
        maker = self._grid_maker(self._graph.parents(layer)[0])
        return self._owners.get(maker.name) == self._owners[layer.name]

    def _grid_maker(self, layer: Node) -> Node:
        """Returns the layer above that puts a tensor on its grid."""
        while keeps_grid(self._graph, layer) or self._rounds_onto_input(layer):
            layer = self._graph.parents(layer)[0]
        return layer

    def _fixed(self, quantized: list[Node]) -> tuple[set[str], set[str]]:
        """Returns the layers and the tensors that stay at 8 bits."""
        first = {
            layer.name
            for layer in quantized
            if is_compute(layer) and self._is_first(layer)
        }
        samples = {
            layer.name
            for layer in quantized
            if layer.float_reason
            and any(above.kind == INPUT for above in self._graph.parents(layer))
        }
        constant = {layer.name for layer in quantized if row_of(layer).is_constant}
        # Samples that were scaled are samples still.
        scaled = {
            self._tensor_name(self._graph.parents(self._graph.by_name[name])[0])
            for name in first
        }
        last: set[str] = set()
        multiplied = {
            self._tensor_name(self._graph.parents(layer)[0])
            for layer in self._graph.nodes
            if is_compute(layer)
        }
        tensors = {
            self._tensor_name(layer) for layer in self._graph.nodes
        } - multiplied | scaled
        for output in self._graph.outputs:
            layer = self._graph.by_name[output.node]
            while grid_of(self._graph, layer) is Grid.FIXED:
                layer = self._graph.parents(layer)[0]
            tensors.add(self._tensor_name(layer))
            while not _multiplies(layer) and len(self._graph.parents(layer)) == 1:
                layer = self._graph.parents(layer)[0]
            if _multiplies(layer):
                last.add(layer.name)
                tensors.add(self._tensor_name(self._graph.parents(layer)[0]))
        fixed = first | samples | last | constant
        kernels = {self._shared.get(name, name) for name in fixed}
        others = {name for name, one in self._shared.items() if one in kernels}
        return fixed | kernels | others, tensors

    def _is_first(self, layer: Node) -> bool:
        """Whether a layer reads the network's input, scaled at most."""
        while True:
            layer = self._tensor(self._graph.parents(layer)[0])
            while layer.kind == NORM:
                layer = self._graph.parents(layer)[0]
            if not row_of(layer).is_constant:
                return layer.kind == INPUT_QUANTIZER

    def _tensor_name(self, layer: Node) -> str:
        """Returns the layer that owns the grid of what `layer` passes on, by name."""
        name = str(self._tensor(layer).name)
        return self._owners.get(name, name)

    def _tensor(self, layer: Node) -> Node:
        """Returns the layer that quantizes the tensor which `layer` passes on."""
        while not is_quantizer(layer) and layer.kind != INPUT:
            placement = self._placement(layer)
            if placement is True or len(self._graph.parents(layer)) != 1:
                break
            if isinstance(placement, str) and placement != Grid.INPUT.value:
                break
            layer = self._graph.parents(layer)[0]
        return layer


def _multiplies(node: Node) -> bool:
    """Whether a node has learned kernels, of integers or in float."""
    return is_compute(node) or bool(node.float_reason and node.float_kernels)
