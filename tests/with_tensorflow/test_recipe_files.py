"""Recipes by the path of a file, as `matar train` takes them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fixtures.programs import fails


def test_a_file_by_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Checked by what is refused before anything is trained."""
    (tmp_path / "nearby.py").write_text("NAME = 'mine'\n")
    (tmp_path / "my_recipe.py").write_text(
        "from matar_tf.keras import RecipeConfig, Schedule\n"
        "from nearby import NAME\n"
        "def get_config():\n"
        "    few = Schedule(epochs=1, learning_rate=0.1, batch_size=4)\n"
        "    return RecipeConfig(name=NAME, data=None, build_model=None,\n"
        "                        float_schedule=few, multi_bit_schedule=few)\n"
    )
    output = f"--output={tmp_path / 'a.matar'}"
    path = str(tmp_path / "my_recipe.py")
    line = fails(capsys, "train", path, output)
    assert "Expected --data for the recipe 'mine'" in line
    line = fails(capsys, "train", f"--recipe={path}:scratch:quick", output)
    assert "Expected --data for the recipe 'mine:scratch:quick'" in line
    line = fails(capsys, "train", f"{path}:slow", output)
    assert "got 'slow'" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no attribute 'get_config'"),
        ("import no_such_module", "no_such_module"),
        ("def get_config(: pass", "invalid syntax"),
        ("def get_config(): return 3", "from get_config of"),
    ],
)
def test_a_file_that_is_no_recipe(
    text: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine.py").write_text(text)
    words = (str(tmp_path / "mine.py"), f"--output={tmp_path / 'a.matar'}")
    assert message in fails(capsys, "train", *words)


def test_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "train", "no.py", "--output=a.matar")
    assert "Expected the file of a recipe at no.py, found nothing" in line


def test_a_name_where_the_folder_of_recipes_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "recipes.common", raising=False)
    monkeypatch.setitem(sys.modules, "recipes", None)
    line = fails(capsys, "train", "digits_resnet8", "--output=a.matar")
    assert "Expected the folder recipes/ of the project's source here" in line
