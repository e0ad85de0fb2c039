"""Keras model -> graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from matar_tf.errors import ModelError
from matar_tf.keras._compat import KerasLayer, KerasModel, keras, tf
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import (
    activation_name,
    has_known_activation,
    kind_of,
    variable_name,
)
from matar_tf.keras.rewrite.foreign import why_foreign
from matar_tf.keras.rewrite.graph import Array, Graph, Node, TensorRef
from matar_tf.keras.rewrite.operation_calls import Call, UnknownOperationError
from matar_tf.keras.rewrite.operations import read_operation
from matar_tf.layer_kinds import ACTIVATIONS, LAYER_KINDS

__all__ = ["has_operations", "read_graph"]

_OPERATIONS = ("SlicingOpLambda", "TFOpLambda")


def has_operations(model: KerasModel) -> bool:
    """Whether a network has operations on tensors that are no layers."""
    return any(kind_of(layer) in _OPERATIONS for layer in model.layers)


def read_graph(model: KerasModel) -> Graph:
    """Returns the graph of a float model; its weights are those of now.

    Raises:
      ModelError: For a Keras 3 object, a subclassed or unbuilt model, or a global
        policy of mixed precision.
    """
    _check_model(model)
    refs: dict[int, TensorRef] = {}
    nodes: dict[str, Node] = {}
    refusals: list[str] = []
    for call in _calls(model):
        node = _read_node(call, refs, nodes)
        if node.name in nodes:
            refusals.append(_why_shared(node))
            node = replace(node, name=f"{node.name}/{len(nodes)}")
        nodes[node.name] = node
        for index, tensor in enumerate(tf.nest.flatten(call.outputs)):
            refs[id(tensor)] = TensorRef(node.name, index)
    graph = Graph(
        name=model.name,
        nodes=tuple(nodes.values()),
        inputs=tuple(refs[id(tensor)] for tensor in model.inputs),
        outputs=tuple(refs[id(tensor)] for tensor in model.outputs),
    )
    lost = [one for one in nodes if one not in graph.by_name]
    refusals += [_why_lost(model, lost)] if lost else []
    return replace(graph, refusals=tuple(refusals))


def _why_shared(node: Node) -> str:
    return (
        f"Expected each layer to be used once, got {node.name!r} ({node.kind}) shared "
        "by several places; make a layer for each, because its inputs differ in scale."
    )


def _why_lost(model: KerasModel, lost: list[str]) -> str:
    return (
        f"Expected layers that lead to an output of {model.name!r}, got {lost}, "
        "from add_loss or add_metric, which the quantized copy would lack; leave "
        "that out, and call it on the copy."
    )


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        origin = type(model).__module__.split(".")[0]
        hint = (
            "it is a Keras 3 object; build it with tf_keras, or set "
            "TF_USE_LEGACY_KERAS=1 before TensorFlow is imported"
            if origin == "keras"
            else "pass a model"
        )
        raise ModelError(
            f"Expected a tf_keras model, got {type(model).__module__}."
            f"{type(model).__name__}: {hint}."
        )
    if isinstance(model, keras.Sequential) and not model.built:
        raise ModelError(
            f"Expected a built model, but {model.name!r} has no input shape yet; give "
            "its first layer an input_shape or call build()."
        )
    if any(wrapper.is_quantized(layer) for layer in model.layers):
        raise ModelError(
            f"Expected a float model, but {model.name!r} is quantized already; pass "
            "the model that it was made from."
        )
    if not getattr(model, "_is_graph_network", False):
        raise ModelError(
            f"Expected a Functional or Sequential model, got the subclassed "
            f"{type(model).__name__} {model.name!r}; rebuild it with "
            "tf_keras.Model(inputs, outputs)."
        )
    if keras.mixed_precision.global_policy().name != "float32":
        raise ModelError(
            "Expected Keras' global policy to be float32, got "
            f"{keras.mixed_precision.global_policy().name!r}; quantized layers would "
            "take it over."
        )


def _calls(model: KerasModel) -> Iterator[Any]:
    """Yields the nodes of Keras in execution order."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


def _read_operation(
    layer: KerasLayer,
    call: Any,
    refs: Mapping[int, TensorRef],
    nodes: Mapping[str, Node],
) -> Node:
    """Returns the node of an operation on tensors that Keras keeps as a layer."""
    arguments, keywords = tf.nest.map_structure(
        lambda value: _value(refs.get(id(value), value)),
        (list(call.call_args), dict(call.call_kwargs)),
    )
    symbol = str(layer.get_config()["function"])
    made = tuple(
        tuple(tensor.shape.as_list()) for tensor in tf.nest.flatten(call.outputs)
    )
    operation = Call(
        symbol=symbol,
        arguments=arguments,
        keywords=keywords,
        shapes=made,
        shape_of=lambda ref: nodes[ref.node].shapes[ref.index],
    )
    node = Node(name=layer.name, kind=f"tf.{symbol}", origin=layer.name, shapes=made)
    try:
        new = read_operation(operation)
    except UnknownOperationError as error:
        reason, remedy = error.args
        return replace(
            node,
            arguments=tuple(arguments),
            keywords=keywords,
            is_copy=True,
            refusal=f"Expected operations on tensors that layers do, but tf.{symbol} "
            f"({layer.name!r}) {reason}; {remedy}.",
        )
    is_merge = LAYER_KINDS[new.kind].min_inputs > 1
    return replace(
        node,
        kind=new.kind,
        arguments=(list(new.inputs),) if is_merge else tuple(new.inputs),
        activation=new.activation,
        attributes={"name": layer.name, **new.attributes},
    )


def _value(value: Any) -> Any:
    return value.numpy() if isinstance(value, (tf.Tensor, tf.Variable)) else value


def _read_node(
    call: Any, refs: Mapping[int, TensorRef], nodes: Mapping[str, Node]
) -> Node:
    layer = call.outbound_layer
    kind = kind_of(layer)
    if kind in _OPERATIONS:
        return _read_operation(layer, call, refs, nodes)
    is_input = isinstance(layer, keras.layers.InputLayer)
    arguments, keywords = tf.nest.map_structure(
        lambda value: refs.get(id(value), value),
        ([], {}) if is_input else (list(call.call_args), dict(call.call_kwargs)),
    )
    is_known = kind in LAYER_KINDS
    return Node(
        name=layer.name,
        kind=kind,
        origin=layer.name,
        shapes=tuple(
            tuple(tensor.shape.as_list()) for tensor in tf.nest.flatten(call.outputs)
        ),
        arguments=tuple(arguments),
        keywords=keywords,
        activation=activation_name(layer),
        attributes=layer.get_config() if is_known else {},
        weights=_weights(layer) if is_known else {},
        is_copy=not is_known,
        refusal=_refusal(layer, is_known=is_known),
    )


def _weights(layer: KerasLayer) -> dict[str, Array]:
    names = [variable_name(variable) for variable in layer.weights]
    return dict(zip(names, layer.get_weights(), strict=True))


def _refusal(layer: KerasLayer, *, is_known: bool) -> str:
    """Returns why a layer cannot be quantized, if Keras alone can tell."""
    if isinstance(layer, keras.Model):
        return (
            f"Expected a flat model, but {layer.name!r} is a model inside the model; "
            "call its layers on the outer model's tensors."
        )
    if not is_known:
        return why_foreign(layer)
    may_be_frozen = LAYER_KINDS[kind_of(layer)].may_be_frozen
    if layer.weights and not layer.trainable and not may_be_frozen:
        return (
            f"Expected a layer that is trained, but {layer.name!r} is frozen; set its "
            "trainable to True, and freeze the quantized model by model.trainable."
        )
    if isinstance(layer, keras.layers.InputLayer) and layer.dtype != "float32":
        return (
            f"Expected samples in float32, but the input {layer.name!r} takes "
            f"{layer.dtype}; leave the dtype out of keras.Input, and scale the samples "
            "before (integers become float32 unchanged)."
        )
    if {layer.dtype, layer.compute_dtype} - {"float32", None}:
        return (
            f"Expected a layer in float32, but {layer.name!r} has variables in "
            f"{layer.dtype} and computes in {layer.compute_dtype}; build the model "
            "under keras.mixed_precision.set_global_policy('float32')."
        )
    if getattr(layer, "activity_regularizer", None) is not None:
        return (
            f"Expected no activity_regularizer in {layer.name!r}, got one, which "
            "tfmot's wrapper does not train; leave it out, or penalise the output in "
            "the loss."
        )
    if activation_name(layer) in ACTIVATIONS and not has_known_activation(layer):
        return (
            f"Expected the activation {activation_name(layer)!r} of tf_keras or tf.nn "
            f"in layer {layer.name!r}, got another function of that name; give it "
            "another name if it computes something else, or pass the name as a string."
        )
    return ""
