"""The limits of a target on shapes, one named function each; see `constraints`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final

from matar_tf.pricing.violations import Site, Violation, violation
from matar_tf.targets.limits import LayerLimit
from matar_tf.targets.target import Target
from matar_tf.workload import LayerWorkload, OpKind, Workload

__all__ = [
    "SHAPE_CONSTRAINTS",
    "fits_shapes",
    "shape_refusal",
    "site_of",
]


def constraint_kernel_size(site: Site, target: Target) -> Iterable[Violation]:
    """Kernels and pooling windows must have a size that the target computes."""
    size = site.layer.kernel_size
    for limit in _limits(site, target):
        if limit.kernel_sizes is not None and size not in limit.kernel_sizes:
            expected = " or ".join(map(_sides, limit.kernel_sizes))
            yield violation(
                constraint_kernel_size, site, f"expected {expected}, got {_sides(size)}"
            )
        most = limit.max_kernel_size
        if most is not None and (size[0] > most[0] or size[1] > most[1]):
            yield violation(
                constraint_kernel_size,
                site,
                f"expected at most {_sides(most)}, got {_sides(size)}",
            )


def constraint_strides(site: Site, target: Target) -> Iterable[Violation]:
    """Kernels and pooling windows must move by strides that the target has."""
    strides = site.layer.strides
    for limit in _limits(site, target):
        if limit.strides is not None and strides not in limit.strides:
            expected = " or ".join(map(_sides, limit.strides))
            yield violation(
                constraint_strides,
                site,
                f"expected strides {expected}, got {_sides(strides)}",
            )


def constraint_channels(site: Site, target: Target) -> Iterable[Violation]:
    """Channels must be of a number that the target computes together."""
    made = site.output_shape[-1:]
    read = site.input_shape[-1:]
    for limit in _limits(site, target):
        most, multiple = limit.max_channels, limit.channel_multiple
        for count in dict.fromkeys((*read, *made)):
            if most is not None and count > most:
                yield violation(
                    constraint_channels,
                    site,
                    f"expected at most {most} channels, got {count}",
                )
        counted = () if site.reads_network_input else read
        counted += () if site.layer.kind is OpKind.DENSE else made
        for count in dict.fromkeys(counted):
            if multiple is not None and count % multiple:
                yield violation(
                    constraint_channels,
                    site,
                    f"expected channels in a multiple of {multiple}, got {count}",
                )


def constraint_inputs(site: Site, target: Target) -> Iterable[Violation]:
    """Outputs must be sums of as many inputs as the target adds up at least."""
    made = site.output_shape[-1] if site.output_shape else 1
    count = site.layer.weight_elems // made
    for limit in _limits(site, target):
        if limit.min_inputs is not None and count < limit.min_inputs:
            yield violation(
                constraint_inputs,
                site,
                f"expected at least {limit.min_inputs} inputs with weights of "
                f"{site.weight_bits} bits, got {count}",
                weights=site.layer.weights if limit.weight_bits else None,
            )


def constraint_input_channels(site: Site, target: Target) -> Iterable[Violation]:
    """A convolution that reads the network's input must read the channels it can."""
    expected = target.network and target.network.input_channels
    if not expected or not site.reads_network_input or not site.input_shape:
        return
    if site.layer.kind is OpKind.CONV and site.input_shape[-1] != expected:
        yield violation(
            constraint_input_channels,
            site,
            f"expected {expected} in the input, got {site.input_shape[-1]}",
        )


def constraint_number_of_layers(site: Site, target: Target) -> Iterable[Violation]:
    """A network must have no more layers with weights than the target runs."""
    most = target.network and target.network.max_layers
    if most and site.num_layers_before == most and site.layer.weights is not None:
        yield violation(
            constraint_number_of_layers,
            site,
            f"expected at most {most} layers, this is number {most + 1}",
        )


SHAPE_CONSTRAINTS: Final[tuple[Callable[[Site, Target], Iterable[Violation]], ...]] = (
    constraint_kernel_size,
    constraint_strides,
    constraint_channels,
    constraint_inputs,
    constraint_input_channels,
    constraint_number_of_layers,
)


def site_of(row: int, workload: Workload, weight_bits: int | None) -> Site:
    """Returns what limits on shapes look at: a layer, its shapes, its weights' width.

    Args:
      row: Number of the layer.
      workload: The network.
      weight_bits: Width of its weights, None without.
    """
    layer, tensors = workload.layers[row], workload.tensors
    before = workload.layers[:row]
    return Site(
        layer=layer,
        weight_bits=weight_bits,
        input_shape=tensors[layer.inputs[0]].shape if layer.inputs else (),
        output_shape=tensors[layer.output].shape,
        reads_network_input=any(name in workload.inputs for name in layer.inputs),
        num_layers_before=sum(one.weights is not None for one in before),
    )


def fits_shapes(
    layer: LayerWorkload, workload: Workload, weight_bits: int, target: Target
) -> bool:
    """Returns whether a layer keeps to all limits on shapes at a width of weights."""
    if not target.limits:
        return True
    site = site_of(workload.layers.index(layer), workload, weight_bits)
    return next(_breaches(site, target), None) is None


def shape_refusal(
    workload: Workload, target: Target, weights: Mapping[str, Collection[int]]
) -> str:
    """Returns why a target takes a network at no widths, for its shapes; "" if it does.

    Args:
      workload: The network.
      target: The target.
      weights: Widths by weight entry.
    """
    for row, layer in enumerate(workload.layers):
        widths = (None,) if layer.weights is None else sorted(weights[layer.weights])
        sites = [site_of(row, workload, bits) for bits in widths]
        found = [next(_breaches(site, target), None) for site in sites]
        if found and found[0] is not None and None not in found:
            message = found[0].message
            return f"Target {target.name!r} cannot run this network: {message}"
    return ""


def _breaches(site: Site, target: Target) -> Iterator[Violation]:
    for constraint in SHAPE_CONSTRAINTS:
        yield from constraint(site, target)


def _limits(site: Site, target: Target) -> Iterator[LayerLimit]:
    kind, bits = site.layer.kind, site.weight_bits
    return (limit for limit in target.limits if limit.covers(kind, bits))


def _sides(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"
