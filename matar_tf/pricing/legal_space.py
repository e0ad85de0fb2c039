"""The part of a policy space that a target takes: widths, and pairs of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from matar_tf.errors import TargetError
from matar_tf.pricing.arrays import tiled_nest
from matar_tf.pricing.constraints import has_room, is_measured, names_of
from matar_tf.pricing.demand import missing_kind
from matar_tf.pricing.memory import check_entries
from matar_tf.pricing.shape_limits import fits_shapes, shape_refusal
from matar_tf.space import PolicySpace
from matar_tf.targets.target import Target
from matar_tf.workload import FLOAT_BITS, LayerWorkload, Workload

__all__ = ["legal_pairs", "legal_space"]


def legal_space(space: PolicySpace, workload: Workload, target: Target) -> PolicySpace:
    """Returns the space with the widths that a target can take for each entry.

    A width stays if every layer that it concerns takes it together with some
    remaining width of the layer's other operand. So each remaining width is of use,
    but not all their combinations need to be: pairs are checked by `check_policy`.

    Args:
      space: The space of the network.
      workload: The network.
      target: The target.

    Raises:
      TargetError: If the target does not support a kind or the shape of a layer, or no
        width remains for an entry.
      PolicyError: If space and workload do not have the same entries.
    """
    check_entries(workload, space.weights, space.activations, "policy space")
    weights = {name: set(widths) for name, widths in space.weights.items()}
    tensors = {name: set(widths) for name, widths in space.activations.items()}
    for layer in workload.layers:
        _restrict_widths(layer, workload, target, weights, tensors)
    refusal = shape_refusal(workload, target, weights)
    if refusal:
        raise TargetError(refusal)
    while True:
        before = sum(map(len, (*weights.values(), *tensors.values())))
        for layer in workload.layers:
            if layer.weights is not None:
                _restrict_pairs(layer, workload, target, weights, tensors)
        if sum(map(len, (*weights.values(), *tensors.values()))) == before:
            break
    return replace(
        space,
        weights={name: tuple(sorted(weights[name])) for name in space.weights},
        activations={name: tuple(sorted(tensors[name])) for name in space.activations},
    )


def legal_pairs(
    space: PolicySpace, workload: Workload, target: Target
) -> dict[tuple[str, str], frozenset[tuple[int, int]]]:
    """Returns the pairs of widths that a target takes, where it does not take all.

    By weight entry and entry of the layer's first input: the widths of both. Entries
    of a layer that takes every pair are left out.

    Args:
      space: What `legal_space` left.
      workload: The network.
      target: The target.
    """
    found: dict[tuple[str, str], frozenset[tuple[int, int]]] = {}
    for layer in workload.layers:
        if layer.weights is None:
            continue
        entry = workload.tensors[layer.inputs[0]].activation
        if entry is None:
            continue
        weights, inputs = space.weights[layer.weights], space.activations[entry]
        _, pairs = _pairs(layer, workload, target, weights, inputs)
        known = found.get((layer.weights, entry))
        both = frozenset(pairs) if known is None else known & frozenset(pairs)
        if len(both) < len(weights) * len(inputs):
            found[layer.weights, entry] = both
    return found


def _pairs(
    layer: LayerWorkload,
    workload: Workload,
    target: Target,
    weights: Collection[int],
    inputs: Collection[int],
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Returns the pairs that a target takes for a layer, and those that it prices."""
    taken = [
        (weight_bits, bits)
        for weight_bits in sorted(weights)
        for bits in sorted(inputs)
        if target.takes(layer.kind, weight_bits, bits)
    ]
    names = names_of(layer, workload)
    nest = tiled_nest(layer, workload, target)
    return taken, [
        one
        for one in taken
        if is_measured(names, layer.kind, *one, target)
        and has_room(nest, *one, target)
        and fits_shapes(layer, workload, one[0], target)
    ]


def _restrict_widths(
    layer: LayerWorkload,
    workload: Workload,
    target: Target,
    weights: Mapping[str, set[int]],
    tensors: Mapping[str, set[int]],
) -> None:
    """Removes, in place, the widths that a layer takes for none of its operands."""
    kind = layer.kind
    reason = missing_kind(layer, workload, target)
    if reason:
        raise TargetError(reason)
    operands = [
        *((name, target.activation_bits_for(kind)) for name in layer.inputs),
        (layer.output, target.activation_bits | {FLOAT_BITS}),
    ]
    for name, allowed in operands:
        entry = workload.tensors[name].activation
        what = f"activation entry {entry!r}" if entry else f"tensor {name!r}"
        widths = tensors[entry] if entry else {workload.fixed_bits(name)}
        _keep(widths, widths & allowed, target, layer, what)
    if layer.weights is not None:
        widths = weights[layer.weights]
        kept = widths & target.weight_bits_for(kind)
        _keep(widths, kept, target, layer, f"weight entry {layer.weights!r}")


def _restrict_pairs(
    layer: LayerWorkload,
    workload: Workload,
    target: Target,
    weights: Mapping[str, set[int]],
    tensors: Mapping[str, set[int]],
) -> None:
    """Removes, in place, the widths that fit no width of the layer's other operand."""
    entry = workload.tensors[layer.inputs[0]].activation
    name = layer.inputs[0]
    input_widths = tensors[entry] if entry else {workload.fixed_bits(name)}
    weight_widths = weights[layer.weights] if layer.weights else set[int]()
    taken, pairs = _pairs(layer, workload, target, weight_widths, input_widths)
    if taken and not pairs and target.buffers is not None:
        raise TargetError(
            f"Expected [buffers] of target {target.name!r} that hold the smallest "
            f"tiles of layer {layer.name!r} with weight and input bits among {taken}, "
            "got smaller ones; enlarge them."
        )
    names = names_of(layer, workload)
    if taken and not pairs:
        raise TargetError(
            f"Expected a row for layer {names[0]!r} or for its shape {names[1]!r} with "
            f"weight and input bits among {taken} in the latency table of target "
            f"{target.name!r}, got none; add one."
        )
    what = f"tensor {layer.inputs[0]!r} beside the weights"
    _keep(input_widths, {bits for _, bits in pairs}, target, layer, what)
    what = f"weight entry {layer.weights!r} beside the input"
    _keep(weight_widths, {bits for bits, _ in pairs}, target, layer, what)


def _keep(
    widths: set[int], kept: set[int], target: Target, layer: LayerWorkload, what: str
) -> None:
    if not kept:
        raise TargetError(
            f"Target {target.name!r} takes none of the {sorted(widths)} bits that the "
            f"{what} may have at layer {layer.name!r} of kind {layer.kind.value!r}: it "
            f"takes weights of {sorted(target.weight_bits_for(layer.kind))} and inputs "
            f"of {sorted(target.activation_bits_for(layer.kind))} bits. Free the "
            "entry, or add the width to the target."
        )
    widths &= kept
