"""Networks of artifacts from strangers: refused with a sentence, never run."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from fixtures.paths import SHIPPED

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.errors import ArtifactError
from matar_tf.keras import load_network


@pytest.fixture(scope="module")
def shipped() -> Artifact:
    return read_artifact(SHIPPED)


class TestNetwork:
    @pytest.mark.parametrize(
        "layer",
        [
            {"module": "keras.layers", "class_name": "TFOpLambda"},
            {"class_name": "TFOpLambda"},
            {"module": "keras.layers", "class_name": "Lambda"},
            {"module": "os", "class_name": "Conv2D"},
            {"module": "keras.utils", "class_name": "get_file"},
            {"module": "keras.layers", "class_name": "Add", "registered_name": "x>y"},
        ],
    )
    def test_other_classes_are_not_built(self, shipped, layer, tmp_path):
        target = tmp_path / "written.txt"
        config = json.loads(shipped.extras["network.json"])
        config["layers"].append(
            {
                **layer,
                "name": "extra",
                "config": {"name": "extra", "function": "io.write_file"},
                "inbound_nodes": [[["input", 0, 0, {"contents": str(target)}]]],
            }
        )
        extras = {**shipped.extras, "network.json": json.dumps(config).encode()}
        with pytest.raises(ArtifactError, match="foreign code"):
            load_network(dataclasses.replace(shipped, extras=extras))
        assert not target.exists()

    def test_layers_take_no_more_than_is_stored(self, shipped):
        config = json.loads(shipped.extras["network.json"])
        text = json.dumps(config)
        filters = re.search(r'"filters": (\d+)', text)[0]
        extras = {
            **shipped.extras,
            "network.json": text.replace(filters, '"filters": 2000000').encode(),
        }
        with pytest.raises(ArtifactError, match=r"stored in network\.npz, got more"):
            load_network(dataclasses.replace(shipped, extras=extras))

    def test_the_shipped_one_is_built(self, shipped):
        assert load_network(shipped).count_params() > 0
