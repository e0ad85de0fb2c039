"""Networks as data: read, laid out, planned and built."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fixtures.nets import IMAGE, L, build_net, keras_model, samples_for
from fixtures.paths import ROOT

from matar_tf.errors import ModelError
from matar_tf.keras import keras
from matar_tf.keras.layers import InputQuantize, MultiBitBatchNormalization
from matar_tf.keras.quantizers.configs import class_of, kind_of
from matar_tf.keras.rewrite.build import build_model
from matar_tf.keras.rewrite.check import (
    end_refusals,
    float_reasons,
    raise_refusals,
    refusals,
)
from matar_tf.keras.rewrite.graph import Graph, Node, TensorRef, map_refs, refs_in
from matar_tf.keras.rewrite.layout import lay_out, with_widths
from matar_tf.keras.rewrite.placement import plan_layout
from matar_tf.keras.rewrite.plan import apply_space
from matar_tf.keras.rewrite.read import read_graph
from matar_tf.layer_kinds import LAYER_KINDS
from matar_tf.policy import ALL_BITS

X, A, B = TensorRef("x"), TensorRef("a"), TensorRef("b")


def node(name: str, kind: str, *inputs: TensorRef, **changes: Any) -> Node:
    arguments = {"shapes": ((None, 4),), "arguments": inputs, **changes}
    return Node(name=name, kind=kind, origin=name, **arguments)


def graph(*nodes: Node, outputs: tuple[TensorRef, ...]) -> Graph:
    return Graph(name="net", nodes=nodes, inputs=(X,), outputs=outputs)


def dense(name: str, *inputs: TensorRef, **changes: Any) -> Node:
    weights = {"kernel": np.ones((4, 4), np.float32), "bias": np.ones(4, np.float32)}
    return node(name, "Dense", *inputs, **{"weights": weights, **changes})


INPUT = node("x", "InputLayer")


class TestGraph:
    def test_order_is_by_the_distance_from_the_farthest_output(self) -> None:
        """x -> a -> b -> sum, x -> c -> sum: c, read first, is as near as b."""
        nodes = (
            INPUT,
            dense("c", X),
            dense("a", X),
            dense("b", A),
            node("sum", "Add", arguments=([TensorRef("c"), B],)),
            dense("nobody", A),
        )
        net = graph(*reversed(nodes), outputs=(TensorRef("sum"),))
        assert [one.name for one in net.nodes] == ["x", "a", "c", "b", "sum"]

    def test_an_input_that_nothing_reads_stays(self) -> None:
        net = Graph(
            name="net",
            nodes=(INPUT, dense("a", X), node("y", "InputLayer")),
            inputs=(X, TensorRef("y")),
            outputs=(A,),
        )
        assert [one.name for one in net.nodes] == ["x", "a", "y"]

    def test_parents_and_consumers_count_each_time(self) -> None:
        net = graph(INPUT, node("a", "Add", arguments=([X, X],)), outputs=(A,))
        add = net.by_name["a"]
        assert [one.name for one in net.parents(add)] == ["x", "x"]
        assert net.consumers(net.by_name["x"]) == (add, add)
        assert net.consumers(add) == ()
        assert net.input_shape(add) == (None, 4)

    @pytest.mark.parametrize(
        ("nodes", "message"),
        [
            ((INPUT, INPUT), "different names"),
            ((INPUT, dense("a", B)), "make TensorRef"),
            ((INPUT, dense("a", TensorRef("x", 1))), "make TensorRef"),
            ((INPUT, dense("a", B), dense("b", A)), "no circle"),
        ],
    )
    def test_refuses(self, nodes: tuple[Node, ...], message: str) -> None:
        with pytest.raises(ModelError, match=message):
            graph(*nodes, outputs=(TensorRef(nodes[-1].name),))

    def test_tensors_in_structures(self) -> None:
        structure = ([X, 3], {"b": B, "a": (A, None)})
        assert list(refs_in(structure)) == [X, A, B]
        names = map_refs(structure, lambda ref: ref.node)
        assert names == (["x", 3], {"b": "b", "a": ("a", None)})

    def test_names_of_kinds_and_of_all_keras_layers(self) -> None:
        for kind, row in LAYER_KINDS.items():
            if row.is_ours or hasattr(L, kind):  # none that a test registered
                assert class_of(kind).__name__ == kind
        for layer in (InputQuantize("x"), MultiBitBatchNormalization("x"), L.Dense(2)):
            assert kind_of(layer) == type(layer).__name__

        class Dense(L.Dense):
            pass

        assert kind_of(Dense(2)) == f"{__name__}.Dense"
        assert kind_of(L.LSTM(2)) == "LSTM"


class TestByHand:
    """Networks that no Keras model was made for."""

    def net(self) -> Graph:
        return graph(
            INPUT,
            dense("a", X),
            node("relu", "ReLU", A, activation="relu"),
            dense("b", TensorRef("relu"), activation="tanh"),
            dense("c", B),
            outputs=(TensorRef("c"),),
        )

    def test_layout(self) -> None:
        laid_out = lay_out(self.net())
        found = [(one.name, one.kind, one.origin) for one in laid_out.nodes]
        assert found == [
            ("x", "InputLayer", "x"),
            ("x_quantize", "InputQuantize", "x"),
            ("a", "Dense", "a"),
            ("relu", "ReLU", "relu"),
            ("b", "Dense", "b"),
            ("b_tanh", "Activation", "b"),
            ("c", "Dense", "c"),
        ]
        assert laid_out.by_name["b"].activation == "linear"
        assert laid_out.by_name["c"].inputs == (TensorRef("b_tanh"),)

    def test_plan(self) -> None:
        plan = plan_layout(lay_out(self.net()))
        assert dict(plan.space.weights) == {"a": (8,), "b": ALL_BITS, "c": (8,)}
        # The tensor of `a` is the ReLU's, that of the tanh lies on a fixed grid.
        expected = {"x": (8,), "relu": ALL_BITS, "b": (8,), "c": (8,)}
        assert dict(plan.space.activations) == expected
        grids = {name: one.quantize_output for name, one in plan.placements.items()}
        assert grids == {
            **{"a": False, "relu": True, "b": True},
            **{"b_tanh": "fixed_grid", "c": True},
        }
        signs = {name: one.signed for name, one in plan.placements.items()}
        assert signs == {"a": True, "relu": False, "b": True, "b_tanh": True, "c": True}
        assert plan.above["b"][:2] == [("activations", "relu"), ("weights", "a")]

    def test_layers_that_are_not_chosen_are_copies(self) -> None:
        laid_out = lay_out(self.net(), only=["c"])
        kept = {one.name for one in laid_out.nodes if one.is_copy}
        assert kept == {"a", "relu", "b"}
        assert "x_quantize" not in laid_out.by_name

    def test_batch_norms_take_signs_and_biases_away(self) -> None:
        """Mean 5 - bias 1 = 4, negative where the scale is; the kernel flips too."""
        norm = node(
            "norm",
            "BatchNormalization",
            A,
            attributes={
                **{"name": "norm", "momentum": 0.9, "epsilon": 0.1},
                **{"center": False, "scale": True},
            },
            weights={
                "gamma": np.array([2, -3, 4, -5], np.float32),
                "moving_mean": np.full(4, 5, np.float32),
                "moving_variance": np.full(4, 7, np.float32),
            },
        )
        laid_out = lay_out(graph(INPUT, dense("a", X), norm, outputs=(norm.output,)))
        above, below = laid_out.by_name["a"], laid_out.by_name["norm"]
        np.testing.assert_array_equal(above.weights["kernel"][0], [1, -1, 1, -1])
        assert set(above.weights) == {"kernel"}
        np.testing.assert_array_equal(below.weights["gamma"], [2, 3, 4, 5])
        np.testing.assert_array_equal(below.weights["moving_mean"], [4, -4, 4, -4])
        plan = plan_layout(laid_out)
        plan = apply_space(plan, plan.space.with_choices(weights={"a": (2, 8)}))
        context = [("activations", "x", (4, 8)), ("weights", "w", (2, 3, 4))]
        widened = with_widths(laid_out, plan, {"a": context}, signed_inputs=False)
        mean = widened.by_name["norm"].weights["moving_mean"]
        variance = widened.by_name["norm"].weights["moving_variance"]
        # Four rows of the first two entries have it all, three of the third nothing.
        np.testing.assert_array_equal(mean[:, 0], [4, 4, 4, 4, 0, 0, 0])
        np.testing.assert_array_equal(variance[:, 0], [7, 7, 7, 7, 1, 1, 1])
        assert widened.by_name["x_quantize"].attributes["signed"] is False

    def test_refusals_of_whoever_read_it(self) -> None:
        net = graph(INPUT, dense("a", X, refusal="It is too old."), outputs=(A,))
        assert refusals(net) == ["It is too old."]
        assert refusals(net, only=["b"]) == []

    def test_every_fault_of_every_layer_is_named_once(self) -> None:
        net = graph(
            INPUT,
            dense("a", X, refusal="It is too old.", activation="sin"),
            node("b", "LSTM", A, refusal="It remembers."),
            outputs=(B,),
        )
        net = replace(net, refusals=("It has a loss.", "It has a loss."))
        assert refusals(net) == ["It has a loss.", "It is too old.", "It remembers."]
        ((reason,),) = float_reasons(net).values()
        assert ", linear, relu, relu6, " in reason
        assert "layer 'a' (Dense), got 'sin'" in reason
        assert float_reasons(net, only=["b"]) == {}

    @pytest.mark.parametrize(
        ("kind", "shape", "is_float"),
        [
            ("Dense", (None, 2, 3, 4), False),
            ("Dense", (None, 2, 2, 3, 4), True),
            ("ReLU", (None, 2, 2, 3, 4), False),
            ("ReLU", (None, 1), False),
        ],
    )
    def test_axes(self, kind: str, shape: tuple[Any, ...], is_float: bool) -> None:
        ranges = {"negative_slope": 0.0, "threshold": 0.0}
        one = node("a", kind, X, shapes=(shape,), attributes=ranges)
        net = graph(INPUT, one, outputs=(A,))
        assert refusals(net) == []
        found = [text for texts in float_reasons(net).values() for text in texts]
        assert len(found) == is_float
        assert all(f"'a' ({kind}) makes, got {shape}" in text for text in found)

    def test_more_axes_than_any_runtime_takes_are_refused(self) -> None:
        one = node("a", "ReLU", X, shapes=((None, 2, 2, 2, 3, 4),))
        (found,) = refusals(graph(INPUT, one, outputs=(A,)))
        assert "at most 5 axes, with that of the batch, of what 'a' (ReLU)" in found
        assert "got (None, 2, 2, 2, 3, 4)" in found

    def test_a_size_of_nothing_is_refused(self) -> None:
        one = node("a", "ReLU", X, shapes=((None, 0),))
        (found,) = refusals(graph(INPUT, one, outputs=(A,)))
        assert "makes, got (None, 0)" in found

    def test_a_network_without_layers(self) -> None:
        (found,) = refusals(graph(INPUT, outputs=(X,)))
        assert "got none in 'net'" in found

    def test_ends_that_can_be_packaged(self) -> None:
        image = (None, 8, 8, 3)
        assert end_refusals({"x": image, "w": (None, None, None, 3)}) == []

    @pytest.mark.parametrize(
        ("height", "is_refused"), [(1 << 14, False), (1 << 15, True)]
    )
    def test_values_that_no_file_holds(self, height: int, is_refused: bool) -> None:
        one = node("a", "Reshape", X, shapes=((None, height, 1 << 14, 1),))
        found = refusals(graph(INPUT, one, outputs=(A,)))
        assert sum("at most 268435456 values" in text for text in found) == is_refused

    def test_samples_that_are_held_whole(self) -> None:
        largest = (None, 8192, 8192, 1)
        assert end_refusals({"x": largest}) == []
        (one,) = end_refusals({"x": (None, 8192, 8193, 1)})
        assert "at most 67108864 values, got (None, 8192, 8193, 1) for 'x'" in one

    def test_no_refusal_is_cut(self) -> None:
        raise_refusals("net", [])
        with pytest.raises(ModelError, match=r"^It is too old\.$"):
            raise_refusals("net", ["It is too old."])
        reasons = [f"Layer {number} is too old." for number in range(300)]
        with pytest.raises(ModelError) as caught:
            raise_refusals("net", reasons)
        title, *lines = str(caught.value).split("\n")
        assert "'net' with 300 things to change" in title
        assert lines == [f"  {reason}" for reason in reasons]


class TestKeras:
    @pytest.mark.parametrize("name", ["separable", "concat_of_concat", "pools1d"])
    def test_what_is_read_can_be_built(self, name: str) -> None:
        net = build_net(name)
        copy = build_model(read_graph(net), {})
        assert copy.get_config() == net.get_config()
        samples = samples_for(name, 4)
        expected = net.predict(samples, verbose=0)
        np.testing.assert_array_equal(copy.predict(samples, verbose=0), expected)

    def test_layers_of_other_kinds_are_copied(self) -> None:
        inputs = L.Input((5, 3))
        sequence, *states = L.LSTM(4, return_sequences=True, return_state=True)(inputs)
        outputs = L.Concatenate()([L.Flatten()(sequence), *states])
        net = keras.Model(inputs, outputs)
        graph = read_graph(net)
        (lstm,) = [one for one in graph.nodes if one.kind == "LSTM"]
        assert lstm.is_copy
        assert lstm.shapes == ((None, 5, 4), (None, 4), (None, 4))
        copy = build_model(graph, {layer.name: layer for layer in net.layers})
        samples = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
        np.testing.assert_allclose(copy(samples), net(samples), rtol=1e-6)

    def test_a_norm_whose_convolution_stays_as_it_is(self) -> None:
        def body(x: Any) -> Any:
            x = L.Conv2D(4, 3, name="conv")(x)
            return L.BatchNormalization(name="norm")(x)

        graph = read_graph(keras_model(IMAGE, body))
        with pytest.raises(ModelError, match="'conv' before a batch norm"):
            lay_out(graph, only=["norm"])


def test_the_table_needs_no_tensorflow() -> None:
    code = "import sys, matar_tf.layer_kinds\nprint('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "False\n", done.stderr
