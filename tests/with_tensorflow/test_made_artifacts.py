"""The artifacts that other tests open are what packaging makes today."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits
from fixtures.digits_training import trained_pair
from fixtures.make_artifacts import make
from fixtures.nets import ARTIFACTS
from fixtures.samples import net_artifact

from matar_tf.artifact import Artifact
from matar_tf.keras import evaluate_policies, package
from matar_tf.tflite._schema import op_name, parse_model
from matar_tf.tflite.evaluate import PolicyEvaluator


def assert_alike(found: Artifact, made: Artifact) -> None:
    """Checks all but numbers that another machine may round otherwise."""
    assert found.space == made.space
    assert found.workload == made.workload
    assert found.template_map == made.template_map
    graphs = [parse_model(one.template) for one in (found, made)]
    operators = [
        [op_name(graph, one) for one in graph.subgraphs[0].operators]
        for graph in graphs
    ]
    assert operators[0] == operators[1]
    assert found.extras.keys() == made.extras.keys()


@pytest.mark.parametrize("name", ARTIFACTS)
def test_networks_that_are_not_trained(name: str) -> None:
    found, made = net_artifact(name), make(name)
    assert_alike(found, made)
    for entry, ours in found.parameters.layers.items():
        theirs = made.parameters.layers[entry]
        np.testing.assert_allclose(ours.kernel, theirs.kernel, atol=1e-6)
        np.testing.assert_allclose(ours.step, theirs.step, rtol=1e-3)
    for entry, one in found.parameters.tensors.items():
        other = made.parameters.tensors[entry]
        np.testing.assert_allclose(one.step, other.step, rtol=1e-3)


def test_the_network_for_the_digits() -> None:
    """Trained anew, it is as accurate as the one in the file, but for a few samples."""
    data, model = few_digits(), trained_pair()[1]
    assert_alike(digits_artifact(), package(model))
    rows = evaluate_policies(model, data.x_test, data.y_test, ("w8a8", "w4a4"))
    evaluate = PolicyEvaluator(digits_artifact(), data.x_test, data.y_test)
    for name, row in rows.items():
        found = evaluate(digits_artifact().space.named(name))["accuracy"]
        assert found == pytest.approx(row["accuracy"], abs=0.05)
