"""Recipes by the path of a file, as `matar train` takes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.paths import ROOT
from fixtures.programs import fails


class TestRecipes:
    def test_a_file_by_its_path(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
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
        self,
        text: str,
        message: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (tmp_path / "mine.py").write_text(text)
        words = (str(tmp_path / "mine.py"), f"--output={tmp_path / 'a.matar'}")
        assert message in fails(capsys, "train", *words)

    def test_no_file_and_no_recipes(self, tmp_path: Path) -> None:
        code = "import sys; sys.modules['recipes'] = None; "
        code += "from matar_tf import cli; sys.exit(cli.main())"
        for recipe, message in (
            ("digits_resnet8", "MatarError: Expected the folder recipes/"),
            ("mine.py", "MatarError: Expected the file of a recipe at mine.py"),
        ):
            done = subprocess.run(
                [sys.executable, "-c", code, "train", recipe, "--output=a"],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 1
            assert message in done.stderr
