"""What is quantized in a model, where, and what that makes of it: a table."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from matar_tf.errors import readable_line
from matar_tf.keras._compat import KerasLayer, KerasModel, keras, tf
from matar_tf.keras.borders import Dequantize
from matar_tf.keras.float_macs import float_macs
from matar_tf.keras.layers import InputQuantize, MultiBitBatchNormalization
from matar_tf.keras.policies import get_policy_space
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import activation_name, kernel_attribute, kind_of
from matar_tf.keras.shared import SharedLayer
from matar_tf.layer_kinds import (
    ACTIVATIONS,
    GRID_OF,
    LAYER_KINDS,
    KernelLayout,
    LayerKind,
)
from matar_tf.operators import Grid
from matar_tf.pricing.memory import packed_bytes
from matar_tf.reporting.shown import html_table
from matar_tf.reporting.text import aligned
from matar_tf.space import PolicySpace

__all__ = ["LayerSummary", "Summary", "summary"]

_Readers: TypeAlias = Mapping[str, list[KerasLayer]]  # of each layer, by its name
_SHOWN_BITS: Final = (8, 4, 2)
_CONSTANT_BYTES: Final = 4  # of a bias, and of a scale
_ALWAYS_BIASED: Final = (KernelLayout.CONV, KernelLayout.DEPTHWISE)
_HEADER: Final = (
    *("layer", "kind", "output", "quantized", "W bits", "A bits", "MACs"),
    *(f"bytes at {bits}" for bits in _SHOWN_BITS),
    "note",
)
_TEXTS: Final = (0, 1, 2, 3, 4, 5, 10)  # columns without figures
_ON_GRIDS: Final = {
    Grid.INPUT.value: "grid of its input",
    Grid.FIXED.value: "fixed grid",
}


@dataclass(frozen=True, kw_only=True)
class LayerSummary:
    """A layer of a multi-bitwidth model.

    Attributes:
      name: Its name, as in policies.
      kind: Its class.
      shape: Shape of its output, without the batch axis; None for an unknown size.
      quantized: What of it is quantized: ``kernel`` and ``output``, the former also
        as ``kernel of 'other'`` where a layer is called once more, the latter as
        ``grid of its input``, ``fixed grid`` or ``grid of 'other'``.
      weight_bits: Widths of the kernel that a policy may take.
      activation_bits: Widths of the output that a policy may take.
      macs: Multiply-accumulates for one sample; an unknown size counts as 1. Recurrent
        layers count the first step, too, whose state of zeros a file leaves out.
      weight_bytes: Bytes of its packed kernel, 32-bit bias and 32-bit scales, by the
        width that is asked for: a kernel that may not take it has the nearest that it
        may, the wider of two.
      is_integer: Whether it multiplies integers.
      is_float: Whether it has no integer kernel, and stays in float.
      note: Why its output, or all of it, is not quantized; "" where it is.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...]
    quantized: tuple[str, ...]
    weight_bits: tuple[int, ...]
    activation_bits: tuple[int, ...]
    macs: int
    weight_bytes: Mapping[int, int]
    is_integer: bool
    is_float: bool
    note: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Summary:
    """What is quantized in a model; printed as a table, shown in a notebook as HTML.

    Attributes:
      name: Name of the model.
      layers: Its layers, in execution order, without inputs.
      space: The widths that policies may take.
    """

    name: str
    layers: tuple[LayerSummary, ...]
    space: PolicySpace

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one sample."""
        return sum(layer.macs for layer in self.layers)

    @property
    def integer_share(self) -> float:
        """Share of the multiply-accumulates that integer kernels compute, 0..1."""
        integers = sum(layer.macs for layer in self.layers if layer.is_integer)
        return integers / self.macs if self.macs else 1.0

    @property
    def weight_bytes(self) -> dict[int, int]:
        """Bytes of all weights, by the width that is asked for."""
        return {
            bits: sum(layer.weight_bytes.get(bits, 0) for layer in self.layers)
            for bits in _SHOWN_BITS
        }

    def __repr__(self) -> str:
        total = ("", "", "", "", "", "", f"{self.macs:,}", *_figures(self.weight_bytes))
        lines = aligned([_HEADER, *map(_cells, self.layers), (*total, "")], left=_TEXTS)
        rule = "-" * max(map(len, lines))
        table = [lines[0], rule, *lines[1:-1], rule, lines[-1]]
        return "\n".join([self._title(), "", *table])

    def _repr_html_(self) -> str:
        return f"<p>{self._title()}</p>{html_table(_HEADER, map(_cells, self.layers))}"

    def _title(self) -> str:
        count = sum(layer.is_float for layer in self.layers)
        noun = "layer" if count == 1 else "layers"
        floats = f", {count} {noun} in float" if count else ""
        return readable_line(
            f"{self.name}: {self.macs:,} MACs, {self.integer_share:.1%} of them with "
            f"integer kernels{floats}, {self.space.described()}"
        )


def summary(model: KerasModel) -> Summary:
    """Returns what is quantized in a multi-bitwidth model, layer by layer.

    ``print`` shows it as a table. The layers are those of the quantized model: a
    separable convolution, for one, is two.

    Args:
      model: What `matar_tf.quantize_model` made, or its trainer.

    Raises:
      ModelError: If the model has no multi-bitwidth quantizers.
    """
    model = wrapper.multi_bit_network(model)
    space = get_policy_space(model)
    readers: dict[str, list[KerasLayer]] = {layer.name: [] for layer in model.layers}
    calls = {layer.name: _calls(model, layer) for layer in model.layers}
    for layer in model.layers:
        for node in calls[layer.name]:
            for tensor in wrapper.tensors_read(node):
                readers[tensor.node.layer.name].append(layer)
    in_float = float_macs(model)
    rows = tuple(
        row
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
        and not (layer.name in model.output_names and wrapper.is_named_end(layer))
        for row in _rows(layer, readers, calls[layer.name], in_float)
    )
    return Summary(name=model.name, layers=rows, space=space)


def _calls(model: KerasModel, layer: KerasLayer) -> list[Any]:
    """Returns Keras' nodes of the calls of a layer in a model, in order."""
    known = set(map(id, itertools.chain(*model._nodes_by_depth.values())))
    return [one for one in layer.inbound_nodes if id(one) in known]


def _rows(
    layer: KerasLayer,
    readers: _Readers,
    calls: Sequence[Any],
    in_float: Mapping[int, int],
) -> Iterator[LayerSummary]:
    """Yields what is said of each call of a layer; several are of one in float."""
    row = _layer(layer, readers, macs_in_float=in_float.get(id(calls[0])))
    yield row
    for number, node in enumerate(calls[1:], start=1):
        name, kernel = wrapper.call_name(layer, number), f"kernel of {row.name!r}"
        yield replace(
            row,
            name=name,
            shape=_shape(node),
            quantized=(kernel,) * len(row.quantized),
            macs=in_float[id(node)],
            weight_bytes={},
        )


def _shape(call: Any) -> tuple[int | None, ...]:
    """Returns the shape of what a call makes first, without the batch axis."""
    return tuple(tf.nest.flatten(call.outputs)[0].shape[1:])


def _layer(
    layer: KerasLayer, readers: _Readers, *, macs_in_float: int | None
) -> LayerSummary:
    inner = wrapper.inner_layer(layer)
    in_float = macs_in_float is not None
    quantizers = wrapper.all_quantizers(layer)
    kernel = wrapper.kernel_quantizer(layer)
    tensors = [one for one in quantizers if one.kind == "activations"]
    output = _output(layer)
    weights = [one for one in quantizers if one.kind == "weights"]
    is_integer = kernel is not None and _reads_grid(layer) and not in_float
    note = "stays in float" if in_float else _note(layer, readers)
    own = "kernel" if weights else f"kernel of {inner.name!r}"
    bits = kernel.bits if kernel else weights[0].bits if weights else ()
    return LayerSummary(
        name=_name(layer),
        kind=kind_of(inner),
        shape=_shape(layer.inbound_nodes[-1]),
        quantized=(*([own] if bits else []), *([output] if output else [])),
        weight_bits=bits,
        activation_bits=tensors[-1].bits if tensors else (),
        macs=_macs(layer) if macs_in_float is None else macs_in_float,
        weight_bytes=_float_bytes(layer) if in_float else _weight_bytes(layer, readers),
        is_integer=is_integer,
        is_float=in_float,
        note=note if in_float or not output else "",
    )


def _output(layer: KerasLayer) -> str:
    """Returns how the output of a layer is quantized, or ""."""
    if any(one.kind == "activations" for one in wrapper.all_quantizers(layer)):
        return "output"
    where = getattr(getattr(layer, "quantize_config", None), "quantize_output", False)
    if not isinstance(where, str):
        return ""
    return _ON_GRIDS.get(where, f"grid of {where.removeprefix(GRID_OF)!r}")


def _row(layer: KerasLayer) -> LayerKind | None:
    return LAYER_KINDS.get(kind_of(wrapper.inner_layer(layer)))


def _kernel_shape(layer: KerasLayer) -> tuple[int, ...]:
    """Returns the shape of a kernel; of an unknown kind's, if it is quantized."""
    inner = wrapper.inner_layer(layer)
    attribute = kernel_attribute(inner)
    if attribute is not None:
        return tuple(getattr(inner, attribute).shape)
    if wrapper.kernel_quantizer(layer) is not None:
        return tuple(wrapper.kernel_variable(layer).shape)
    return ()


def _macs(layer: KerasLayer) -> int:
    """Returns a product of every value of the kernel for each place of the output."""
    kernel = _kernel_shape(layer)
    if not kernel:
        return 0
    row = _row(layer)
    is_turned = bool(row and row.kernel and row.kernel.is_transposed)
    # A transposed convolution puts its kernel down once for each place of the input.
    places = (layer.input_shape if is_turned else layer.output_shape)[1:-1]
    return math.prod(size or 1 for size in places) * math.prod(kernel)


def _weight_bytes(layer: KerasLayer, readers: _Readers) -> dict[int, int]:
    """Returns bytes by the width that is asked for; of a float kernel nothing."""
    quantizer = wrapper.kernel_quantizer(layer)
    if quantizer is None:
        return {}
    num_scales = quantizer.all_steps()[0].size
    row = _row(layer)
    is_biased = (
        getattr(wrapper.inner_layer(layer), "use_bias", False)
        or any(_is_norm(below) for below in readers[layer.name])
        # The converter gives these one, of zeros.
        or (row and row.kernel and row.kernel.layout in _ALWAYS_BIASED)
    )
    num_biases = layer.output_shape[-1] if is_biased else 0
    constants = _CONSTANT_BYTES * (num_scales + num_biases)
    size = math.prod(_kernel_shape(layer)) if _has_own(layer) else 0
    return {
        bits: packed_bytes(size, _nearest(quantizer.bits, bits)) + constants
        for bits in _SHOWN_BITS
    }


def _float_bytes(layer: KerasLayer) -> dict[int, int]:
    """Returns bytes by the width that is asked for, of a layer in float."""
    kernels = wrapper.float_kernels(layer)
    sizes = [(one, math.prod(variable.shape)) for one, variable in kernels]
    named = {id(variable) for _, variable in kernels}
    weights = wrapper.inner_layer(layer).weights
    others = sum(math.prod(one.shape) for one in weights if id(one) not in named)
    others += sum(one.all_steps()[0].size for one, _ in sizes)
    found = {
        bits: _CONSTANT_BYTES * others
        + sum(packed_bytes(size, _nearest(one.bits, bits)) for one, size in sizes)
        for bits in _SHOWN_BITS
    }
    return found if any(found.values()) else {}


def _has_own(layer: KerasLayer) -> bool:
    """Whether a layer has a quantized kernel that is not another one's."""
    quantizer = wrapper.kernel_quantizer(layer)
    return quantizer is not None and quantizer.layer is layer


def _nearest(offered: tuple[int, ...], bits: int) -> int:
    return min(offered, key=lambda one: (abs(one - bits), -one))


def _is_norm(layer: KerasLayer) -> bool:
    return isinstance(wrapper.inner_layer(layer), MultiBitBatchNormalization)


def _name(layer: KerasLayer) -> str:
    """Returns the name of a layer, as in policies if it has an entry there."""
    is_entry = isinstance(layer, (InputQuantize, SharedLayer))
    return wrapper.entry_name(layer) if is_entry else wrapper.inner_layer(layer).name


def _reads_grid(layer: KerasLayer) -> bool:
    """Whether integers reach a layer."""
    above = wrapper.producer(layer)
    while above is not None:
        if wrapper.output_quantizer(above) is not None:
            return True
        row = _row(above)
        if row is None or _is_in_float(above, row):
            return False
        above = wrapper.producer(above)
    return isinstance(layer, InputQuantize)


def _is_in_float(layer: KerasLayer, row: LayerKind) -> bool:
    """Whether a layer has no integer kernel, or one that is not quantized."""
    is_bare = row.kernel is not None and wrapper.kernel_quantizer(layer) is None
    return row.is_float or is_bare


def _note(layer: KerasLayer, readers: _Readers) -> str:
    """Returns why the output of a layer is not quantized where it stands."""
    inner, row = wrapper.inner_layer(layer), _row(layer)
    if not _reads_grid(layer):
        return "float: its input is not quantized"
    if _is_norm(layer):
        return f"folded into {_name(wrapper.multiplier(layer))!r}"
    if row is None or _is_in_float(layer, row):
        return "float: not annotated"
    function = (
        None if row.activation is None else ACTIVATIONS.get(activation_name(inner))
    )
    if isinstance(inner, Dequantize):
        return "brings floats to the layers after it"
    if row.is_identity or (function and function.is_fused and not function.operator):
        return "identity at inference"
    if function and function.grid is Grid.FIXED:
        return "the output is float"
    if row.grid is Grid.KEPT:
        return "keeps the grid of its input"
    if row.joins:
        return "its inputs are on one grid"
    below = layer
    while readers[below.name] and not _output(below):
        below = readers[below.name][0]
    return f"quantized by {_name(below)!r}" if _output(below) else "the output is float"


def _cells(layer: LayerSummary) -> tuple[str, ...]:
    cells = (
        layer.name,
        layer.kind,
        " x ".join("?" if size is None else str(size) for size in layer.shape),
        ", ".join(layer.quantized),
        _widths(layer.weight_bits),
        _widths(layer.activation_bits),
        f"{layer.macs:,}" if layer.macs else "",
        *_figures(layer.weight_bytes),
        layer.note,
    )
    return tuple(map(readable_line, cells))


def _figures(values: Mapping[int, int]) -> tuple[str, ...]:
    return tuple(
        f"{values[bits]:,}" if values.get(bits) else "" for bits in _SHOWN_BITS
    )


def _widths(bits: tuple[int, ...]) -> str:
    """Returns widths as printed: ``8``, ``2..8``, ``2 4 8``."""
    if len(bits) > 2 and bits == tuple(range(bits[0], bits[-1] + 1)):
        return f"{bits[0]}..{bits[-1]}"
    return " ".join(map(str, bits))
