"""Workloads: what is refused, what survives a file, what `read_workload` counts."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Any

import pytest
from fixtures.digits import digits_artifact
from fixtures.samples import net_artifact

from matar_tf.errors import ModelError
from matar_tf.pricing.demand import demand_of
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload, Workload


def tensor(name: str, *shape: int) -> TensorWorkload:
    return TensorWorkload(name=name, shape=shape, activation=name)


def layer(name: str, *inputs: str, **changes: Any) -> LayerWorkload:
    arguments = {"kind": OpKind.ADD, "output": name, **changes}
    return LayerWorkload(name=name, inputs=inputs, **arguments)


def make(**changes: Any) -> Workload:
    arguments: dict[str, Any] = {
        "layers": (layer("a", "x"), layer("b", "a", "x")),
        "tensors": {name: tensor(name, 4, 4, 2) for name in "xab"},
        "inputs": ("x",),
        "outputs": ("b",),
    }
    return Workload(**{**arguments, **changes})


class TestInvariants:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"layers": (layer("a", "x"), layer("b", "c"))}, "no earlier layer makes"),
            ({"layers": (layer("b", "a"), layer("a", "x"))}, "no earlier layer makes"),
            ({"layers": (layer("a", "x"), layer("b", "x", output="a"))}, "made twice"),
            ({"layers": (layer("a", "x"), layer("b", "x", output="x"))}, "made twice"),
            ({"tensors": {"x": tensor("x", 1)}}, "a description of each"),
            ({"outputs": ("c",)}, "a description of each"),
        ],
    )
    def test_refuses(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ModelError, match=message):
            make(**changes)

    def test_equal_workloads_have_equal_hashes_and_others_not(self) -> None:
        assert make() == make()
        assert hash(make()) == hash(make())
        assert make() != make(outputs=("a", "b"))
        assert hash(make()) != hash(make(outputs=("a", "b")))

    def test_tensors_cannot_be_changed(self) -> None:
        tensors = {name: tensor(name, 4, 4, 2) for name in "xab"}
        workload = make(tensors=tensors)
        del tensors["x"]
        assert workload == make()
        with pytest.raises(TypeError):
            workload.tensors["x"] = tensor("x", 1)  # type: ignore[index]

    def test_a_layer_without_weights_multiplies_nothing(self) -> None:
        alone = layer("a", "x")
        assert (alone.macs, alone.weight_elems, alone.bias_elems) == (0, 0, 0)
        assert (alone.kernel_size, alone.strides, alone.groups) == ((1, 1), (1, 1), 1)
        counted = make(layers=(layer("a", "x", macs=5), layer("b", "a", macs=7)))
        assert (make().macs, counted.macs) == (0, 12)


def test_pairs_of_entries_by_hand() -> None:
    """Of layers with weights whose input has an entry: the first input alone."""
    tensors = {name: tensor(name, 4, 4, 2) for name in "xab"}
    network = make(
        layers=(layer("a", "x", weights="wa"), layer("b", "a", "x", weights="wb")),
        tensors=tensors,
    )
    assert network.entry_pairs() == (("wa", "x"), ("wb", "a"))
    tensors["a"] = replace(tensors["a"], activation=None)
    assert replace(network, tensors=tensors).entry_pairs() == (("wa", "x"),)
    assert make().entry_pairs() == ()


class TestFiles:
    def test_round_trip(self) -> None:
        assert Workload.from_json(json.loads(json.dumps(make().to_json()))) == make()
        assert pickle.loads(pickle.dumps(make())) == make()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda doc: doc.update(schema_version=2), "schema_version 1"),
            (lambda doc: doc["layers"][0].update(kind="convv"), "Did you mean 'conv'"),
            (lambda doc: doc["layers"][0].update(colour="red"), "colour"),
            (lambda doc: doc["tensors"][0].pop("shape"), "shape"),
            (lambda doc: doc.pop("outputs"), "outputs"),
            (lambda doc: doc.update(outputs=[]), "outputs"),
            (lambda doc: doc.update(layers=3), "layers"),
            (lambda doc: doc["layers"][0].update(inputs=[]), "inputs"),
            (lambda doc: doc["layers"][0].update(kind=[]), "kind"),
            (lambda doc: doc["layers"][0].update(groups=0), "groups"),
            (lambda doc: doc["layers"][0].update(macs="many"), "macs"),
            (lambda doc: doc["layers"][0].update(macs=-1), "macs"),
            (lambda doc: doc["layers"][0].update(strides=[1]), "strides"),
            (lambda doc: doc["layers"][0].update(weights=3), "weights"),
            (lambda doc: doc["tensors"][0].update(shape=["a"]), "shape"),
            (lambda doc: doc["tensors"][0].update(shape=[0]), "shape"),
            (lambda doc: doc["tensors"].append(doc["tensors"][0]), "different names"),
        ],
    )
    def test_refuses(self, change: Any, message: str) -> None:
        document = make().to_json()
        change(document)
        with pytest.raises(ModelError, match=message):
            Workload.from_json(document)

    @pytest.mark.parametrize(
        ("part", "key", "value", "beyond"),
        [
            ("tensors", "shape", [2**31 - 1], [2**31]),
            ("tensors", "shape", [1], [0]),
            ("tensors", "shape", [1], [True]),
            ("tensors", "shape", [1] * 8, [1] * 9),
            ("layers", "strides", [2**31 - 1, 1], [2**31, 1]),
            ("layers", "kernel_size", [3, 3], [3, 3, 3]),
            ("layers", "macs", 2**53, 2**53 + 1),
            ("layers", "weight_elems", 0, -1),
            ("layers", "bias_elems", 2**53, 2**53 + 1),
            ("layers", "groups", 1, 0),
        ],
    )
    def test_both_sides_of_each_range(
        self, part: str, key: str, value: Any, beyond: Any
    ) -> None:
        document = make().to_json()
        document[part][0][key] = value
        read = Workload.from_json(json.loads(json.dumps(document)))
        assert json.loads(json.dumps(read.to_json()))[part][0][key] == value
        document[part][0][key] = beyond
        with pytest.raises(ModelError, match=f"under '{key}'"):
            Workload.from_json(document)

    @pytest.mark.parametrize("value", [None, [], "x", 3])
    def test_refuses_what_is_no_document(self, value: object) -> None:
        with pytest.raises(ModelError, match="malformed"):
            Workload.from_json(value)


def test_counts_of_a_packaged_network_by_hand() -> None:
    """8x8x1 -> 4x4x8 (3x3) -> 2x2x16 (3x3) -> 64 -> 32 -> 10."""
    workload = digits_artifact().workload
    macs = {one.name: one.macs for one in workload.layers if one.weights}
    assert macs == {
        "stem": 16 * 8 * 9,
        "conv": 4 * 16 * 9 * 8,
        "hidden": 64 * 32,
        "logits": 32 * 10,
    }
    assert workload.macs == sum(macs.values())
    elems = {one.name: one.weight_elems for one in workload.layers if one.weights}
    assert elems == {"stem": 72, "conv": 1152, "hidden": 2048, "logits": 320}
    assert all(one.bias_elems for one in workload.layers if one.weights)


def test_a_changed_layer_changes_the_workload() -> None:
    workload = digits_artifact().workload
    first = workload.layers[0]
    other = replace(workload, layers=(replace(first, macs=1), *workload.layers[1:]))
    assert other != workload


def test_a_global_maximum_looks_at_all_of_its_input() -> None:
    """8x8x4 -> 4: each output is the largest of 64 elements."""
    workload = net_artifact("global_max").workload
    pool = next(one for one in workload.layers if one.kind is OpKind.MAX_POOL)
    source, output = (workload.tensors[n] for n in (pool.inputs[0], pool.output))
    assert pool.kernel_size == source.shape[:2] == (8, 8)
    demand = demand_of(pool, workload, (None, (8,), 8))
    assert demand.num_elems == 64 * 4 == 64 * output.elems
