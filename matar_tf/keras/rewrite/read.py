"""Keras model -> graph.

Models inside the model are read as their layers, named by paths: ``base/conv``. A layer
that is called several times, or is in a model that is, has a node for each call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from matar_tf.keras._compat import KerasLayer, KerasModel, keras, tf
from matar_tf.keras.quantizers.configs import (
    activation_name,
    float_kernels,
    has_known_activation,
    kind_of,
)
from matar_tf.keras.rewrite.fitness import config_of, float_reason_of, refusal_of
from matar_tf.keras.rewrite.graph import Array, Graph, Node, TensorRef
from matar_tf.keras.rewrite.kinds import IDENTITY
from matar_tf.keras.rewrite.networks import (
    OPERATIONS,
    calls_in,
    check_network,
    is_network,
)
from matar_tf.keras.rewrite.operation_calls import Call, UnknownOperationError
from matar_tf.keras.rewrite.operations import read_operation
from matar_tf.keras.rewrite.own_layers import as_known
from matar_tf.keras.rewrite.samples import Trials
from matar_tf.keras.rewrite.variables import variables_by_name
from matar_tf.layer_kinds import ACTIVATIONS, LAYER_KINDS

__all__ = ["read_graph"]

_LOSSES = ("AddLoss", "AddMetric")  # how Keras keeps what stands beside the outputs


def read_graph(model: KerasModel, *, are_tried: bool = False) -> Graph:
    """Returns the graph of a float model; its weights are those of now.

    Args:
      model: The model.
      are_tried: Whether layers that may mix the samples of a batch are run on invented
        ones, and refused if they do.

    Raises:
      ModelError: For a Keras 3 object, or a subclassed or unbuilt model.
    """
    check_network(model)
    reader = _Reader([tensor.shape[0] for tensor in model.inputs], are_tried)
    reader.read(model, is_frozen=not model.trainable)
    nodes, refs = reader.nodes, reader.refs
    graph = Graph(
        name=model.name,
        nodes=tuple(nodes.values()),
        inputs=tuple(refs[id(tensor)] for tensor in model.inputs),
        outputs=tuple(refs[id(tensor)] for tensor in model.outputs),
    )
    lost = [one.name for one in nodes.values() if one.kind in _LOSSES]
    reader.refusals += [_why_lost(model, lost)] if lost else []
    return replace(graph, refusals=tuple(reader.refusals))


class _Reader:
    """What is read of a network so far.

    Attributes:
      nodes: By name.
      refs: Which tensor each of Keras' is, by identity.
      refusals: What makes the network unfit, beside what its nodes say.
    """

    def __init__(self, batch_sizes: Iterable[int | None], are_tried: bool) -> None:
        self._trials = Trials(batch_sizes) if are_tried else None
        self.nodes: dict[str, Node] = {}
        self.refs: dict[int, TensorRef] = {}
        self.refusals: list[str] = []
        self._calls: dict[int, list[str]] = {}  # nodes of each layer, by its identity

    def read(
        self,
        model: KerasModel,
        prefix: str = "",
        training: bool | None = None,
        *,
        is_frozen: bool = False,
    ) -> None:
        """Reads the calls of a network.

        Args:
          model: The network.
          prefix: The path of a network inside another.
          training: Whether the network is called as in training or in evaluation,
            if the caller says.
          is_frozen: Whether all of it is frozen, whatever its layers say.
        """
        keys = _keys_of_inputs(model)
        for call in calls_in(model):
            layer = call.outbound_layer
            is_input = isinstance(layer, keras.layers.InputLayer)
            if is_input and prefix:
                continue  # its tensor is one of the outer network's
            name = keys.get(id(layer)) or prefix + layer.name
            if is_network(layer):
                self._enter(layer, call, name, training, is_frozen)
                continue
            name = self._take_name(layer, name)
            origin, *others = self._calls[id(layer)]
            node = _read_node(call, name, self.refs, self.nodes)
            node = replace(
                node,
                origin=origin,
                use=len(others),
                is_frozen=node.is_frozen or is_frozen,
            )
            node = _as_called(node, training)
            if self._trials is not None:
                self._trials.note(call)
                refusal = node.refusal or self._trials.why_mixing(call, node)
                node = replace(node, refusal=refusal)
            same = self._same_call(node) if others else None
            if same is None:
                self.nodes[name] = node
            else:
                self._calls[id(layer)].pop()
            for index, tensor in enumerate(tf.nest.flatten(call.outputs)):
                self.refs[id(tensor)] = TensorRef(same or name, index)

    def _enter(
        self,
        model: KerasModel,
        call: Any,
        name: str,
        training: bool | None,
        is_frozen: bool,
    ) -> None:
        """Reads a network inside the network where it is called."""
        told = dict(call.call_kwargs)
        given = told.pop("inputs") if "inputs" in told else call.call_args[0]
        fed = model._flatten_to_reference_inputs(given)
        for inner, outer in zip(model.inputs, fed, strict=True):
            self._link(inner, outer)
            if len(inner.shape) != len(outer.shape):
                self.refusals.append(_why_other_rank(name, inner, outer))
        said = told.get("training", next(iter(call.call_args[1:2]), None))
        training = training if said is None else bool(said)
        is_frozen = is_frozen or not model.trainable
        self.read(model, f"{name}/", training, is_frozen=is_frozen)
        results = tf.nest.flatten(call.outputs)
        for outer, inner in zip(results, model.outputs, strict=True):
            self._link(outer, inner)

    def _link(self, tensor: Any, same: Any) -> None:
        """Notes that a tensor is the same as one of another model."""
        self.refs[id(tensor)] = self.refs[id(same)]
        if self._trials is not None:
            self._trials.link(tensor, same)

    def _same_call(self, node: Node) -> str | None:
        """Returns an earlier call of a node's layer on the same tensors, if any."""
        if node.is_copy or LAYER_KINDS[node.kind].is_identity:
            return None  # which may draw anew
        for one in self.nodes.values():
            if one.origin == node.origin and (
                (one.arguments, one.keywords, one.is_frozen)
                == (node.arguments, node.keywords, node.is_frozen)
            ):
                return one.name
        return None

    def _take_name(self, layer: KerasLayer, path: str) -> str:
        """Returns the name of the node of a call, which is the layer's next one.

        The first has the path of its layer, the second that and ``/use_2``.
        """
        names = self._calls.setdefault(id(layer), [])
        name = f"{names[0]}/use_{len(names) + 1}" if names else path
        if name in self.nodes:
            self.refusals.append(_why_two(name))
            name = f"{name}/{len(self.nodes)}"  # refused, but read to the end
        names.append(name)
        return name


def _keys_of_inputs(model: KerasModel) -> dict[int, str]:
    """Returns the key of each input of a model that takes a dict, by its layer.

    By these Keras takes samples, not by the names of the layers.
    """
    made = model.input
    if not isinstance(made, dict):
        return {}
    return {id(one.node.outbound_layer): str(key) for key, one in made.items()}


def _as_called(node: Node, training: bool | None) -> Node:
    """Returns a node as ``training`` has it, which may be told where it is called.

    In evaluation for ever, a batch norm is frozen, and what acts in training alone is
    left out.
    """
    told = dict(node.keywords)
    said = told.pop("training", None)
    training = training if said is None else bool(said)
    if training is None or node.is_copy:
        return node
    node = replace(node, keywords=told)
    if not training:
        row = LAYER_KINDS[node.kind]
        if row.is_identity:
            return replace(node, kind=IDENTITY, attributes={"name": node.name})
        return replace(node, is_frozen=True) if row.may_be_frozen else node
    if LAYER_KINDS[node.kind].is_identity or LAYER_KINDS[node.kind].may_be_frozen:
        refusal = (
            f"Expected {node.name!r} ({node.kind}) to rest in evaluation, got one that "
            "is called with training=True; leave that out."
        )
        return replace(node, refusal=refusal)
    return node


def _why_two(name: str) -> str:
    return (
        f"Expected layers of different paths, got two {name!r} (the second call of a "
        "layer 'x' is 'x/use_2'); rename one."
    )


def _why_other_rank(name: str, inner: Any, outer: Any) -> str:
    return (
        f"Expected tensors of {len(inner.shape)} axes for the model {name!r}, got one "
        f"of shape {tuple(outer.shape)}; reshape it before."
    )


def _why_lost(model: KerasModel, lost: list[str]) -> str:
    return (
        f"Expected layers that lead to an output of {model.name!r}, got {lost}, "
        "from add_loss or add_metric, which the quantized copy would lack; leave "
        "that out, and call it on the copy."
    )


def _read_operation(
    layer: KerasLayer,
    call: Any,
    name: str,
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
    node = Node(name=name, kind=f"tf.{symbol}", origin=name, shapes=made)
    try:
        # Others beside the first, such as sizes, its reader knows.
        for tensor in tf.nest.flatten(call.keras_inputs)[:1]:
            if tensor.dtype.name in ("bool", "int32", "int64"):
                kind = tensor.dtype.name
                raise UnknownOperationError(f"reads {kind}", "leave it out")
        new = read_operation(operation)
    except UnknownOperationError as error:
        reason, remedy = error.args
        return replace(
            node,
            arguments=tuple(arguments),
            keywords=keywords,
            is_copy=True,
            float_reason=f"Expected operations on tensors that layers do, but "
            f"tf.{symbol} ({name!r}) {reason}; {remedy}.",
        )
    is_merge = LAYER_KINDS[new.kind].min_inputs > 1
    return replace(
        node,
        kind=new.kind,
        arguments=(list(new.inputs),) if is_merge else tuple(new.inputs),
        activation=new.activation,
        attributes={"name": name, **new.attributes},
    )


def _value(value: Any) -> Any:
    return value.numpy() if isinstance(value, (tf.Tensor, tf.Variable)) else value


def _read_node(
    call: Any, name: str, refs: Mapping[int, TensorRef], nodes: Mapping[str, Node]
) -> Node:
    layer = as_known(call.outbound_layer)
    kind = kind_of(layer)
    if kind in OPERATIONS:
        return _read_operation(layer, call, name, refs, nodes)
    is_input = isinstance(layer, keras.layers.InputLayer)
    arguments, keywords = tf.nest.map_structure(
        lambda value: refs.get(id(value), value),
        ([], {}) if is_input else (list(call.call_args), dict(call.call_kwargs)),
    )
    row = LAYER_KINDS.get(kind)
    is_known = row is not None and not row.is_float
    return Node(
        name=name,
        kind=kind,
        origin=name,
        shapes=tuple(
            tuple(tensor.shape.as_list()) for tensor in tf.nest.flatten(call.outputs)
        ),
        arguments=tuple(arguments),
        keywords=keywords,
        activation=activation_name(layer),
        attributes={**_arguments(layer), "name": name} if is_known else {},
        weights=_weights(layer) if is_known else {},
        is_copy=not is_known,
        is_frozen=not layer.trainable,
        refusal=refusal_of(layer, name, is_known=is_known),
        float_reason=float_reason_of(layer, call, name, is_known=is_known),
        float_kernels=tuple(float_kernels(layer)),
    )


def _arguments(layer: KerasLayer) -> dict[str, Any]:
    """Returns a layer's arguments, with a function of the user's own as it is."""
    config = config_of(layer)
    is_own = activation_name(layer) not in ACTIVATIONS
    if "activation" in config and (is_own or not has_known_activation(layer)):
        config["activation"] = layer.activation
    return config


def _weights(layer: KerasLayer) -> dict[str, Array]:
    return dict(zip(variables_by_name(layer), layer.get_weights(), strict=True))
