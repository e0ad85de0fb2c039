"""What several calls of one layer have in common, in files and in prices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from matar_tf.errors import ArtifactError
from matar_tf.norms import NormParameters
from matar_tf.parameters import LayerParameters, Parameters
from matar_tf.policy import Policy
from matar_tf.pricing.memory import layer_weight_bytes
from matar_tf.template_map import KernelPlace
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload, Workload

POLICY = Policy(weights={"dense": 4}, activations={})


def norm(mean: float) -> NormParameters:
    ones = np.ones(2, np.float32)
    return NormParameters(
        entries=(("weights", "dense", (4,)),),
        gamma=2 * ones,
        beta=ones,
        mean=np.full((1, 2), mean, np.float32),
        variance=np.full((1, 2), 3.0, np.float32),
        epsilon=1.0,
    )


def parameters(**changes: Any) -> Parameters:
    layer = LayerParameters(
        kernel=np.ones((2, 3), np.float32),
        channel_axis=0,
        bits=(4,),
        step=np.ones((1, 2), np.float32),
        **changes,
    )
    return Parameters(layers={"dense": layer}, tensors={})


def test_each_call_has_its_batch_norm() -> None:
    given = parameters(norm=norm(1.0), calls={"dense/use_2": norm(3.0), "other": None})
    found = Parameters.from_npz(given.to_npz())
    assert found.digest() == given.digest()
    assert found.digest() != parameters(norm=norm(1.0)).digest()
    layer = found.layers["dense"]
    # 2 / sqrt(3 + 1) = 1, and 1 - mean.
    for call, offset in ((None, 0.0), ("dense/use_2", -2.0)):
        scale, shift = layer.affine(POLICY, call)
        np.testing.assert_array_equal(scale, [1.0, 1.0])
        np.testing.assert_array_equal(shift, [offset, offset])
    scale, shift = layer.affine(POLICY, "other")
    np.testing.assert_array_equal(scale, [1.0, 1.0])
    assert shift is None


def test_norms_of_calls_are_checked_as_others() -> None:
    strange = parameters(norm=norm(1.0), calls={"dense/use_2": norm(np.nan)})
    with pytest.raises(ArtifactError, match="mean of 'dense' must be finite"):
        Parameters.from_npz(strange.to_npz())


@pytest.mark.parametrize("weights", [None, "dense"])
def test_a_place_is_read_as_it_was_written(weights: str | None) -> None:
    place = KernelPlace(operator=3, input="x", weights=weights)
    document = place.to_json()
    assert ("weights" in document) == (weights is not None)
    assert KernelPlace.from_json(document) == place


@pytest.mark.parametrize(
    "document", [{"operator": 3, "input": "x", "weights": 4}, {"operator": 3}, 3]
)
def test_another_place_is_refused(document: object) -> None:
    with pytest.raises(ArtifactError):
        KernelPlace.from_json(document)


def test_a_kernel_is_stored_once() -> None:
    tensors = {
        name: TensorWorkload(name=name, shape=(3,), activation=None) for name in "abc"
    }
    layers = tuple(
        LayerWorkload(
            name=name,
            kind=OpKind.DENSE,
            inputs=(source,),
            output=made,
            weights="dense",
            macs=9,
            weight_elems=9,
            bias_elems=3,
        )
        for name, source, made in (("dense", "a", "b"), ("dense/use_2", "b", "c"))
    )
    workload = Workload(layers=layers, tensors=tensors, inputs=("a",), outputs=("c",))
    assert workload.storing == {"dense"}
    assert workload.macs == 18
    # 9 values of 4 bits, and 4 bytes for each bias and each scale; those alone.
    sizes = [layer_weight_bytes(layer, workload, 4) for layer in layers]
    assert sizes == [5 + 24, 24]
