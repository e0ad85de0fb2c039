"""Layers in float that TFLite might not have operators for: converted, alone.

What stays in float is copied into the file as it is, so that the converter's word on it
is the last one: it lacks operators, or makes some that nobody checks here. A network
would hear of it when it is packaged, after its training. So layers of which it is not
known beforehand are converted when the network is quantized, with what stands between
them, by the way that packaging takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from matar_tf.errors import MatarError
from matar_tf.keras._compat import KerasLayer, KerasModel, Tensor, infer, keras, tf
from matar_tf.keras.packaging.convert import convert_policy, make_template
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.rewrite.build import build_model
from matar_tf.keras.rewrite.graph import Graph, Node, TensorRef, reading
from matar_tf.keras.rewrite.kinds import INPUT
from matar_tf.keras.rewrite.networks import dtype_of
from matar_tf.layer_kinds import ACTIVATIONS, LAYER_KINDS
from matar_tf.tflite._graph_rules import lacking_operators
from matar_tf.tflite.runtime import Runner

__all__ = ["trial_refusals"]

_OPEN_SIZE: Final = 32  # stands for a size that is not known yet
_SAMPLES: Final = 2
_TOLERANCE: Final = 1e-2  # of the largest value
_ODD: Final = 0.1  # of the values: ties, edges, exponentials of large numbers
_READ: Final = frozenset({"float32", "int32"})
_INTEGERS: Final = frozenset({"bool", "int32", "int64"})
_NUMBERS: Final = _INTEGERS | {"float32"}
# Of Keras' own, beside those with a row; with their default functions.
_KNOWN_LAYERS: Final = frozenset(
    {
        *("ActivityRegularization", "Add", "AlphaDropout", "Average", "Concatenate"),
        *("Dense", "Dropout", "Flatten", "GaussianDropout", "GaussianNoise"),
        *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D"),
        *("GlobalMaxPooling2D", "Identity", "LayerNormalization", "Masking", "Maximum"),
        *("Minimum", "Multiply", "Permute", "ReLU", "RepeatVector", "Rescaling"),
        *("Reshape", "Softmax", "SpatialDropout1D", "SpatialDropout2D", "Subtract"),
        *("AttentionCore", "Embedding", "GRU", "LSTM", "SimpleRNN"),
    }
)
# Functions of TensorFlow, on floats or numbers, by their symbols.
_KNOWN_SYMBOLS: Final = frozenset(
    {
        *("__operators__.add", "cast", "concat", "identity"),
        *("expand_dims", "math.abs", "math.add", "math.cos", "math.divide"),
        *("math.exp", "math.log", "math.maximum", "math.minimum", "math.multiply"),
        *("math.negative", "math.reduce_max", "math.reduce_mean", "math.reduce_sum"),
        *("math.rsqrt", "math.sigmoid", "math.sin", "math.sqrt", "math.square"),
        *("math.subtract", "math.tanh", "math.truediv", "reshape", "squeeze"),
        *("stack", "transpose"),
    }
)
_KNOWN_INTERPOLATIONS: Final = frozenset({"nearest", "bilinear"})
_KNOWN_FUNCTIONS: Final = frozenset({"softplus", "softsign", *ACTIVATIONS})
_BRANCHES: Final = "which branches or loops by the values of tensors"
_OUTSIDE: Final = (
    "leave it out, write it with other operations, or compute it outside of the "
    "network, on samples before or on outputs after it"
)


def trial_refusals(
    graph: Graph, originals: Mapping[str, KerasLayer], again: Mapping[str, str]
) -> list[str]:
    """Returns why layers in float could not be packaged, a sentence each.

    Args:
      graph: A network, laid out.
      originals: The layers that nodes may be copies of, by name.
      again: The node whose layer a node calls again, by the name of the latter.
    """
    doubtful = [
        node
        for node in graph.nodes
        if node.float_reason
        and (_is_doubtful(node) or not _dtypes(node, originals) <= _NUMBERS)
    ]
    if not doubtful:
        return []

    def why(nodes: Sequence[Node]) -> str:
        model = _alone(graph, nodes, originals, again)
        return "" if model is None else _why_not(model)

    near = list(_with_neighbours(graph, doubtful))
    if not why(near):
        return []
    found = {node.name: (node, why([node])) for node in doubtful}
    faults = [
        _refusal(f"{name!r} ({_shown(node)})", reason)
        for name, (node, reason) in found.items()
        if reason
    ]
    if faults:
        return faults
    # It may be that nothing is wrong but with what stands between them.
    names = ", ".join(repr(node.name) for node in doubtful[:5])
    return [_refusal(f"{names} and what stands between", why(near))]


def _refusal(what: str, reason: str) -> str:
    return (
        f"Expected layers of which TFLite makes plain operators, got {what}, "
        f"{reason}; {_OUTSIDE}."
    )


def _shown(node: Node) -> str:
    function = node.attributes.get("activation")
    return getattr(function, "__name__", None) or node.kind


def _is_doubtful(node: Node) -> bool:
    """Whether it is not known that the converter makes plain operators of a node."""
    kind = node.kind.removeprefix("tf.")
    if kind != node.kind:
        return kind not in _KNOWN_SYMBOLS
    row = LAYER_KINDS.get(kind)
    is_known = row is not None and not row.is_float and not node.is_copy
    if not is_known and kind not in _KNOWN_LAYERS:
        return True
    if node.attributes.get("interpolation", "nearest") not in _KNOWN_INTERPOLATIONS:
        return True
    return node.activation not in _KNOWN_FUNCTIONS


def _dtypes(node: Node, originals: Mapping[str, KerasLayer]) -> set[str]:
    return {dtype_of(node, index, originals) for index in range(len(node.shapes))}


def _with_neighbours(graph: Graph, doubtful: Iterable[Node]) -> Iterator[Node]:
    """Yields nodes and what is in float beside them, as far as it has no weights."""
    wanted = {node.name for node in doubtful}
    waiting = list(wanted)
    while waiting:
        node = graph.by_name[waiting.pop()]
        for one in (*graph.parents(node), *graph.consumers(node)):
            is_light = one.float_reason and not (one.weights or one.float_kernels)
            if is_light and one.name not in wanted:
                wanted.add(one.name)
                waiting.append(one.name)
    yield from (node for node in graph.nodes if node.name in wanted)


def _alone(
    graph: Graph,
    nodes: Sequence[Node],
    originals: Mapping[str, KerasLayer],
    again: Mapping[str, str],
) -> KerasModel | None:
    """Returns a model of some nodes of a network, on inputs of what they read.

    None if there is none: sizes are open that they need, or they read tensors of types
    that no file takes as its inputs.
    """
    names = {node.name for node in nodes}
    fed: dict[TensorRef, Node] = {}

    def given(ref: TensorRef) -> TensorRef:
        if ref.node in names:
            return ref
        if ref not in fed:
            batch, *sizes = graph.shape(ref)
            fed[ref] = Node(
                name=f"given_{len(fed)}",
                kind=INPUT,
                origin=f"given_{len(fed)}",
                shapes=((batch, *(size or _OPEN_SIZE for size in sizes)),),
                attributes={
                    "dtype": dtype_of(graph.by_name[ref.node], ref.index, originals)
                },
            )
        return fed[ref].output

    inner = [reading(node, given) for node in nodes]
    if not {one.attributes["dtype"] for one in fed.values()} <= _READ:
        return None
    read = {ref for node in inner for ref in node.inputs}
    made = [
        TensorRef(node.name, index)
        for node in inner
        for index in range(len(node.shapes))
    ]
    part = Graph(
        name="trial",
        nodes=(*fed.values(), *inner),
        inputs=tuple(one.output for one in fed.values()),
        outputs=tuple(ref for ref in made if ref not in read),
    )
    try:
        model = build_model(
            part,
            originals,
            again={k: v for k, v in again.items() if {k, v} <= names},
        )
        nothing = _nothing(model.inputs[0])
        made = [_as_float(one, nothing) for one in model.outputs]
        return keras.Model(model.inputs, made)
    except Exception:  # noqa: BLE001 -- whatever a user's layer raises
        return None


def _nothing(tensor: Tensor) -> Tensor:
    """Returns a 0 that is computed of samples."""
    first = tf.reshape(tf.cast(tensor, tf.float32), [-1])[:1]
    return tf.minimum(tf.abs(first), 0.0)


def _as_float(tensor: Tensor, nothing: Tensor) -> Tensor:
    """Returns numbers as floats that depend on samples, as all that a file makes."""
    if tensor.dtype.name not in _NUMBERS:
        return tensor
    return tf.cast(tensor, tf.float32) + nothing


def _why_not(model: KerasModel) -> str:
    """Returns why a model of layers in float cannot be packaged; "" if it can."""
    try:
        content = make_template(model).content
        is_same = _computes(model, content)
    except MatarError as error:
        fault = str(error).partition(";")[0]
        if "subgraph" in fault:
            return _BRANCHES
        return _lacking(model) or f"of which TFLite makes no sound file ({fault})"
    except tf.errors.OperatorNotAllowedInGraphError:
        return _BRANCHES
    except Exception as error:  # noqa: BLE001 -- of all kinds, by the converter
        text = " ".join(str(error).split())
        return f"with which the converter fails ({type(error).__name__}: {text:.120})"
    return "" if is_same else "of which TFLite computes something else"


def _computes(model: KerasModel, content: bytes) -> bool:
    """Whether a file computes what a model does, but for a few ties and edges."""
    rng = np.random.default_rng(0)
    given = {
        name: rng.normal(size=(_SAMPLES, *tensor.shape[1:])).astype(np.float32)
        if tensor.dtype == tf.float32
        else rng.integers(0, 2, (_SAMPLES, *tensor.shape[1:])).astype(np.int32)
        for name, tensor in zip(model.input_names, model.inputs, strict=True)
    }
    runner = Runner(content)
    found = runner.predict(given if len(given) > 1 else next(iter(given.values())))
    rows = [
        infer(model, [tf.constant(one[k : k + 1]) for one in given.values()])
        for k in range(_SAMPLES)
    ]
    expected = [
        np.concatenate(one) for one in zip(*map(tf.nest.flatten, rows), strict=True)
    ]
    names = wrapper.output_names(model)
    made = [found[one] for one in names] if len(names) > 1 else [found]
    return all(map(_is_near, made, expected))


def _is_near(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether most values are as expected; what has none (NaN) may be any."""
    finite = np.isfinite(expected)
    largest = np.abs(expected[finite]).max(initial=0.0)
    far = np.abs(found - expected)[finite] > _TOLERANCE * largest
    return found.shape == expected.shape and far.sum() <= _ODD * far.size


def _lacking(model: KerasModel) -> str:
    """Returns which operators no file may have; "" if that is not what is wrong."""
    try:
        names = lacking_operators(convert_policy(model))
    except MatarError:
        return ""
    return f"which takes {', '.join(names)}, which files here cannot have" * bool(names)
