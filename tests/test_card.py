"""Cards of artifacts: what is said, what is refused, and how it is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.paths import ROOT
from fixtures.programs import call

import matar_tf as mt
from matar_tf.artifact import Artifact
from matar_tf.card import CARD_KEY, ModelCard
from matar_tf.errors import ArtifactError

SAID = {
    "description": "Tells digits apart.",
    "intended_use": "Post codes; not cheques.",
    "author": "A. Maker",
    "license": "Apache-2.0",
    "training_data": "1,437 scans",
    "preprocessing": "grey, 0..1, divided by 16",
    "class_names": ("zero", "one"),
}


def net(**card: Any) -> Artifact:
    artifact = mt.load_artifact(ROOT / "tests" / "data" / "dense.matar")
    return replace(artifact, provenance={CARD_KEY: card, "recipe": "mine"})


class TestCard:
    def test_what_is_said_is_read_again(self) -> None:
        card = ModelCard(**SAID)
        assert ModelCard.from_json(card.to_json()) == card
        assert set(card.to_json()) == set(SAID)
        assert ModelCard().to_json() == {}
        assert ModelCard.from_json({}) == ModelCard()

    @pytest.mark.parametrize(
        "said",
        [
            {"author": 3},
            {"author": "x" * 4001},
            {"class_names": "zero"},
            {"class_names": ["a", "b", "a"]},
            {"class_names": [0, 1]},
            {"class_names": 7},
            {"class_names": [str(one) for one in range((1 << 16) + 1)]},
        ],
    )
    def test_something_else_is_refused(self, said: dict[str, Any]) -> None:
        with pytest.raises(ArtifactError, match=r"^Expected "):
            ModelCard(**said)

    def test_limits_are_taken(self) -> None:
        ModelCard(author="x" * 4000)
        ModelCard(class_names=tuple(map(str, range(1 << 16))))

    @pytest.mark.parametrize("value", [None, [], {"licence": "MIT"}, "text"])
    def test_other_objects_are_no_cards(self, value: object) -> None:
        with pytest.raises(ArtifactError, match="as card"):
            ModelCard.from_json(value)


class TestPage:
    def test_all_that_is_said_is_shown(self) -> None:
        page = mt.model_card(net(**SAID))
        for value in SAID.values():
            for text in value if isinstance(value, tuple) else (value,):
                assert text in page
        assert "not said" not in page
        assert "recipe: mine" in page

    def test_what_is_not_said_is_told(self) -> None:
        page = mt.model_card(net(author="A. Maker"))
        assert "- **Author:** A. Maker" in page
        assert page.count("not said") == 5

    def test_figures_have_their_units(self) -> None:
        row = {"float": {"loss": 0.25, "accuracy": 0.5}, "w8a8": {"accuracy": 0.25}}
        lines = mt.model_card(replace(net(), accuracy=row)).splitlines()
        assert "| policy | loss | accuracy [%] |" in lines
        assert "| float | 0.25 | 50.00 |" in lines
        assert "| w8a8 |  | 25.00 |" in lines

    def test_texts_of_strangers_are_shown_as_they_stand(self) -> None:
        page = mt.model_card(net(author="<script>x|y\n# title", description="\x1b[2J"))
        assert "\\<script>x\\|y # title" in page
        assert "\x1b" not in page
        assert "\n# title" not in page

    def test_inspect_prints_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        artifact = net(**SAID)
        for name in ("net.matar", "net"):
            mt.write_artifact(artifact, tmp_path / name)
            assert call("inspect", model=str(tmp_path / name)) == 0
            page = capsys.readouterr().out
            assert page == mt.model_card(tmp_path / name)
            assert page.startswith("# net\n")
