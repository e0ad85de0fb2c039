"""Requests that nobody can meet: refused at once, with the one thing that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.paths import TARGETS
from fixtures.programs import call, fails

from matar_tf.errors import SearchError, TargetError
from matar_tf.evolution import Limit, SearchOptions
from matar_tf.targets import load_target

MPIC = TARGETS / "mpic.toml"


class TestCost:
    @pytest.mark.parametrize("empty", ["policies", "targets"])
    @pytest.mark.parametrize("layers", [False, True])
    def test_an_empty_list(
        self,
        empty: str,
        layers: bool,
        files: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        values = {"policies": ["w8a8"], "targets": ["mpic"], empty: []}
        artifact = str(files / "net.matar")
        assert f"names in --{empty}, got none" in fails(
            capsys, "cost", artifact=artifact, layers=layers, **values
        )


class TestShowTarget:
    @pytest.mark.parametrize("other", ["list", "schema"])
    def test_two_questions(
        self, other: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = fails(capsys, "targets", check="none.toml", **{other: True})
        _, got = message.split("Expected one of --list, --check and --schema, got ")
        asked, _ = got.split(";")
        assert set(asked.split(" and ")) == {"--check", f"--{other}"}

    def test_one_question_at_a_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert call("targets", check=str(MPIC), list=False) == 0
        assert "no mistakes" in capsys.readouterr().out


class TestTargetFile:
    def load(self, folder: Path, *changes: tuple[str, str]) -> None:
        text = MPIC.read_text()
        for old, new in changes:
            assert text.count(old) == 1
            text = text.replace(old, new)
        path = folder / "mine.toml"
        path.write_text(text)
        load_target(path)

    KINDS = '["conv", "dense"]'

    def test_what_follows_from_another_mistake_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="has a mistake: ops") as caught:
            self.load(tmp_path, (self.KINDS, '["depthwise"]'))
        assert "unknown value 'depthwise'" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_an_empty_list_is_one(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="kinds: expected at least 1 item"):
            self.load(tmp_path, (self.KINDS, "[]"))

    def test_mistakes_elsewhere_do_not_hide_it(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="has 3 mistakes") as caught:
            self.load(tmp_path, (self.KINDS, "[]"), ('name = "mpic"', "nom = 1"))
        assert "kinds: expected at least 1 item" in str(caught.value)


class TestLimits:
    @pytest.mark.parametrize(("smallest", "fits"), [(20, True), (21, False)])
    def test_a_smallest_figure_above_the_largest(
        self, smallest: float, fits: bool
    ) -> None:
        limits = (
            Limit(name="cycles", bound=smallest, is_minimum=True),
            Limit(name="weight_bytes", bound=10),
            Limit(name="cycles", bound=20),
        )
        if fits:
            assert SearchOptions(limits=limits).limits == limits
        else:
            message = r"smallest cycles of at most the largest, 20, got 21;"
            with pytest.raises(SearchError, match=message):
                SearchOptions(limits=limits)
