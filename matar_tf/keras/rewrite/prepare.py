"""Float model -> the model and the configs that tfmot is to wrap it with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matar_tf.keras._compat import KerasLayer, KerasModel, keras
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import MatarQuantizeConfig, kind_of
from matar_tf.keras.quantizers.float_configs import FloatQuantizeConfig
from matar_tf.keras.rewrite.build import build_layer, build_model
from matar_tf.keras.rewrite.check import (
    end_refusals,
    float_reasons,
    raise_refusals,
    refusals,
)
from matar_tf.keras.rewrite.ends import passed_on, same_outputs
from matar_tf.keras.rewrite.floating import mark_floats, warn_of_floats
from matar_tf.keras.rewrite.folding import fold_norms, norm_refusals
from matar_tf.keras.rewrite.graph import Graph, Node
from matar_tf.keras.rewrite.kinds import INPUT
from matar_tf.keras.rewrite.layout import lay_out, with_widths
from matar_tf.keras.rewrite.lowering import lower
from matar_tf.keras.rewrite.merging import merge_equal
from matar_tf.keras.rewrite.networks import is_plain, layers_by_name
from matar_tf.keras.rewrite.placement import plan_layout
from matar_tf.keras.rewrite.plan import (
    Choice,
    Entries,
    Placement,
    Plan,
    Scales,
    apply_scales,
    apply_space,
)
from matar_tf.keras.rewrite.read import read_graph
from matar_tf.keras.rewrite.sharing import (
    called_again,
    kernels_unlike,
    tie,
)
from matar_tf.patterns import matching
from matar_tf.scales import FREE
from matar_tf.space import PolicySpace

__all__ = ["Prepared", "as_layers", "check_model", "default_space", "prepare_model"]


def as_layers(model: KerasModel, *, strict: bool = False) -> KerasModel:
    """Returns a network of layers alone.

    Operations on tensors, such as ``x + 3``, become layers; so do the models inside
    the model, whose layers are named by their paths: ``base/conv``. Layers of mixed
    precision become those of float32. tfmot takes none of these. The copy computes the
    same and has the weights of now; frozen layers stay frozen.

    Args:
      model: A float network; one of layers of float32 alone is returned as it is.
      strict: As for `check_model`.

    Raises:
      ModelError: As `check_model`.
    """
    graph = check_model(model, strict=strict, are_tried=True)
    if is_plain(model):
        return model
    again = called_again(graph)
    return build_model(graph, layers_by_name(model), again=again)


def check_model(
    model: KerasModel,
    *,
    only: Collection[str] | None = None,
    is_whole: bool = True,
    besides: Sequence[str] = (),
    strict: bool = False,
    are_tried: bool = False,
) -> Graph:
    """Refuses what cannot be quantized, saying what to do; returns the model's graph.

    Its nodes say which layers stay in float. All that is to be changed is in one error,
    each layer on a line of its own.

    Args:
      model: What is to be quantized.
      only: Names of the layers to be quantized by their kind; None for all.
      is_whole: Whether the whole model is quantized, so that it can be packaged.
      besides: Further reasons to refuse the model.
      strict: Whether to refuse a layer kind, activation or argument that has no integer
        kernel here.
      are_tried: As for `read_graph`.

    Raises:
      ModelError: For a Keras 3 object, a subclassed or unbuilt model, a layer that is
        used twice or is for a loss or metric, or an input that is too large; if
        `strict`, for a layer that would stay in float.
    """
    graph = read_graph(model, are_tried=are_tried)
    found = list(besides)
    if is_whole:
        shapes = {ref.node: graph.shape(ref) for ref in graph.inputs}
        found += [*end_refusals(shapes), *passed_on(graph)]
    found += refusals(graph, only=only)
    if strict:
        found += [
            one
            for reasons in float_reasons(graph, only=only).values()
            for one in reasons
        ]
    raise_refusals(graph.name, found)
    return mark_floats(graph, only=only)


def choose(
    model: KerasModel,
    given: Mapping[str, MatarQuantizeConfig | None],
    configs: Mapping[str, MatarQuantizeConfig],
) -> dict[str, MatarQuantizeConfig | None]:
    """Returns the config of each layer to quantize, or None.

    Args:
      model: A float model.
      given: The layers to quantize, by name, each with a config of its own or None.
      configs: Those of layers without one of their own, by name or kind of layer, or
        pattern of either; later ones win.

    Raises:
      PolicyError: If a name, kind or pattern matches nothing.
    """
    kinds = {
        layer.name: kind_of(layer)
        for layer in model.layers
        if layer.name in given and not isinstance(layer, keras.layers.InputLayer)
    }
    chosen: dict[str, MatarQuantizeConfig | None] = dict(given)
    for pattern, config in configs.items():
        found = matching([*kinds, *dict.fromkeys(kinds.values())], pattern, "layers")
        hits = [name for name, kind in kinds.items() if {name, kind} & set(found)]
        chosen |= {name: config for name in hits if given[name] is None}
    return chosen


def default_space(
    model: KerasModel,
    configs: Mapping[str, MatarQuantizeConfig],
    scales: Scales,
) -> PolicySpace:
    """Returns the default policy space of a float model.

    Args:
      model: A float model; see `check_model`.
      configs: What the user chose for layers; see `choose`.
      scales: Which steps there are.
    """
    model = as_layers(model)
    graph = check_model(model)
    names = [node.origin for node in graph.nodes if node.kind != INPUT]
    given = choose(model, dict.fromkeys(names), configs)
    return _planned(model, graph, given, scales, signed_inputs=True)[1].space


def _planned(
    model: KerasModel,
    graph: Graph,
    given: Mapping[str, MatarQuantizeConfig | None],
    scales: Scales,
    *,
    signed_inputs: bool,
) -> tuple[Graph, Plan]:
    """Returns a checked network laid out, and its plan."""
    raise_refusals(graph.name, _other_scales(given, scales))
    per_tensor = {
        name
        for name, one in given.items()
        if not (scales.per_channel and (one is None or one.per_channel))
    }
    # The scale of a batch norm would spoil powers of two.
    folding = per_tensor if scales.scale == FREE else set(given)
    floats = {node.name for node in graph.nodes if node.float_reason}
    integers = [name for name in given if name not in floats]
    graph = lower(merge_equal(graph, only=integers), only=integers)
    raise_refusals(graph.name, norm_refusals(graph, per_tensor))
    graph = lay_out(fold_norms(graph, folding), only=given)
    own = {name for name, one in given.items() if one and one.inner is not None}
    raise_refusals(graph.name, kernels_unlike(graph, own))
    originals = {layer.name: layer for layer in model.layers}
    choices = {
        name: None if one is None else _choice(one, graph, originals)
        for name, one in given.items()
    }
    plan = plan_layout(graph, given=choices, signed_inputs=signed_inputs)
    return graph, apply_scales(plan, scales)


def _other_scales(
    given: Mapping[str, MatarQuantizeConfig | None], scales: Scales
) -> list[str]:
    """Returns why configs of layers do not fit the scales of the network, if so."""
    return [
        f"Expected the scale {one.scale!r} of {name!r} for the whole network, got "
        f"{scales.scale!r} for that; pass scale={one.scale!r} to quantize_model."
        for name, one in given.items()
        if one is not None and one.scale not in (FREE, scales.scale)
    ]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A float model laid out.

    Attributes:
      graph: The network, a node for each layer.
      configs: How each layer that is to be wrapped is quantized, by name.
      originals: The layers that nodes may be copies of, by name.
      again: The node whose layer a node calls again, by the name of the latter.
    """

    graph: Graph
    configs: Mapping[str, MatarQuantizeConfig]
    originals: Mapping[str, KerasLayer]
    again: Mapping[str, str]


def prepare_model(  # noqa: PLR0913
    model: KerasModel,
    given: Mapping[str, MatarQuantizeConfig | None],
    *,
    space: PolicySpace | None,
    configs: Mapping[str, MatarQuantizeConfig],
    signed_inputs: bool,
    norm_context: int,
    scales: Scales,
    strict: bool = False,
    are_tried: bool = False,
) -> Prepared:
    """Lays a float model out and places quantizers.

    Warns of layers that stay in float.

    Args:
      model: The model.
      given: The layers to quantize, by name, each with the config that the user chose
        or None. A layer of any kind may come with a config that has an inner one: it
        says what to quantize.
      space: Widths of every policy entry; None for those of the plan.
      configs: What the user chose for layers without a config; see `choose`.
      signed_inputs: Whether the samples have values below 0.
      norm_context: Number of entries whose widths the statistics of a norm follow.
      scales: Which steps there are.
      strict: As for `check_model`.
      are_tried: As for `read_graph`.
    """
    given = choose(model, given, configs)
    own = [name for name, one in given.items() if one is None or one.inner is None]
    others = [one for one in model.layers if one.name not in given]
    is_whole = all(isinstance(one, keras.layers.InputLayer) for one in others)
    graph = check_model(
        model, only=own, is_whole=is_whole, strict=strict, are_tried=are_tried
    )
    graph, plan = _planned(model, graph, given, scales, signed_inputs=signed_inputs)
    if strict:  # also of what a layer was put together from
        reasons = [node.float_reason for node in graph.nodes if node.float_reason]
        raise_refusals(graph.name, reasons)
    raise_refusals(graph.name, same_outputs(graph, wrapper.output_names(model)))
    warn_of_floats(graph)
    if space is not None:
        plan = apply_space(plan, space)
    contexts = plan.contexts(norm_context)
    graph = with_widths(graph, plan, contexts, signed_inputs=signed_inputs)
    found: dict[str, MatarQuantizeConfig] = {}
    for name, placement in plan.placements.items():
        chosen = given.get(graph.by_name[name].origin)
        inner = None if chosen is None else chosen.inner
        found[name] = _config(inner, placement)
    arguments = {name: one.get_config() for name, one in found.items()}
    graph = tie(graph, plan.shared, arguments)
    again = {
        name: first
        for name, first in called_again(graph).items()
        if graph.by_name[name].is_copy or graph.by_name[name].float_reason
    }
    return Prepared(
        graph=graph,
        configs={name: one for name, one in found.items() if name not in plan.shared},
        originals={layer.name: layer for layer in model.layers},
        again=again,
    )


def _choice(
    config: MatarQuantizeConfig, graph: Graph, originals: Mapping[str, KerasLayer]
) -> Choice:
    def entries_of(node: Node, placement: Placement) -> Entries:
        layer = build_layer(node, graph, originals)
        return _config(config.inner, placement).entries(layer)

    return Choice(
        weight_bits=config.weight_bits,
        activation_bits=config.activation_bits,
        signed=config.signed,
        per_channel=config.per_channel,
        entries_of=None if config.inner is None else entries_of,
    )


def _config(inner: Any, placement: Placement) -> MatarQuantizeConfig:
    if placement.float_bits:
        return FloatQuantizeConfig(
            list(placement.float_bits.values()),
            per_channel=placement.per_channel,
            scale=placement.scale,
        )
    return MatarQuantizeConfig(
        inner,
        weight_bits=placement.weight_bits,
        activation_bits=placement.activation_bits,
        quantize_output=placement.quantize_output,
        signed=placement.signed,
        per_channel=placement.per_channel,
        scale=placement.scale,
    )
