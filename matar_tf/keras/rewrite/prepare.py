"""Float model -> the model and the configs that tfmot is to wrap it with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from matar_tf.keras._compat import KerasLayer, KerasModel
from matar_tf.keras.quantizers.configs import MatarQuantizeConfig
from matar_tf.keras.rewrite.build import build_layer, build_model
from matar_tf.keras.rewrite.check import check_graph
from matar_tf.keras.rewrite.graph import Graph, Node
from matar_tf.keras.rewrite.layout import lay_out, with_widths
from matar_tf.keras.rewrite.lowering import lower
from matar_tf.keras.rewrite.placement import plan_layout
from matar_tf.keras.rewrite.plan import Choice, Entries, Placement, apply_space
from matar_tf.keras.rewrite.read import has_operations, read_graph
from matar_tf.space import PolicySpace

__all__ = ["as_layers", "check_model", "default_space", "prepare_model"]


def as_layers(model: KerasModel) -> KerasModel:
    """Returns a network whose operations on tensors, such as ``x + 3``, are layers.

    tfmot copies no network that has operations. The copy computes the same and has
    the weights of now.

    Args:
      model: A float network; one without operations is returned as it is.

    Raises:
      ModelError: As `check_model`.
    """
    graph = check_model(model)
    if not has_operations(model):
        return model
    return build_model(graph, {layer.name: layer for layer in model.layers})


def check_model(model: KerasModel, *, only: Collection[str] | None = None) -> Graph:
    """Refuses what cannot be quantized, saying what to do; returns the model's graph.

    Args:
      model: What is to be quantized.
      only: Names of the layers to be quantized by their kind; None for all.

    Raises:
      ModelError: For a Keras 3 object, a subclassed or unbuilt model, a global policy
        of mixed precision, a layer that is used twice, or a layer kind or activation
        that has no integer kernel here.
    """
    graph = read_graph(model)
    check_graph(graph, only=only)
    return graph


def default_space(model: KerasModel) -> PolicySpace:
    """Returns the default policy space of a float model; see `check_model`."""
    return plan_layout(lay_out(lower(check_model(model)))).space


def prepare_model(
    model: KerasModel,
    given: Mapping[str, MatarQuantizeConfig | None],
    *,
    space: PolicySpace | None,
    signed_inputs: bool,
    norm_context: int,
) -> tuple[KerasModel, dict[str, dict[str, Any]]]:
    """Lays a float model out and places quantizers.

    Args:
      model: The model.
      given: The layers to quantize, by name, each with the config that the user chose
        or None. A layer of any kind may come with a config that has an inner one: it
        says what to quantize.
      space: Widths of every policy entry; None for those of the plan.
      signed_inputs: Whether the samples have values below 0.
      norm_context: Number of entries whose widths the statistics of a norm follow.

    Returns:
      The laid-out model, and the config of each layer to wrap, as tfmot takes them.
    """
    own = [name for name, one in given.items() if one is None or one.inner is None]
    graph = lower(check_model(model, only=own), only=given)
    graph = lay_out(graph, only=given)
    originals = {layer.name: layer for layer in model.layers}
    choices = {
        name: None if one is None else _choice(one, graph, originals)
        for name, one in given.items()
    }
    plan = plan_layout(graph, given=choices, signed_inputs=signed_inputs)
    if space is not None:
        plan = apply_space(plan, space)
    contexts = plan.contexts(norm_context)
    graph = with_widths(graph, plan.space, contexts, signed_inputs=signed_inputs)
    configs: dict[str, dict[str, Any]] = {}
    for name, placement in plan.placements.items():
        chosen = given.get(graph.by_name[name].origin)
        inner = None if chosen is None else chosen.inner
        configs[name] = {"quantize_config": _config(inner, placement)}
    return build_model(graph, originals), configs


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
        entries_of=None if config.inner is None else entries_of,
    )


def _config(inner: Any, placement: Placement) -> MatarQuantizeConfig:
    return MatarQuantizeConfig(
        inner,
        weight_bits=placement.weight_bits,
        activation_bits=placement.activation_bits,
        quantize_output=placement.quantize_output,
        signed=placement.signed,
    )
