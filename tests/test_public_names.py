"""Public names: each is one thing, whatever was imported before it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fixtures.paths import ROOT

import matar_tf

NEEDS_TENSORFLOW = {name for name, home in matar_tf._HOMES.items() if home == "keras"}
_IMPORT_ALL = """
import importlib, pkgutil
def import_all():
    for module in pkgutil.walk_packages(matar_tf.__path__, "matar_tf."):
        if module.name.startswith("matar_tf.keras") and not with_tensorflow:
            continue
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""
_WITHOUT = """
import sys
for name in ("tensorflow", "tf_keras", "keras", "tensorflow_model_optimization"):
    sys.modules[name] = None
"""


def run(script: str) -> str:
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


def test_none_is_that_of_a_submodule() -> None:
    modules = {path.stem for path in (ROOT / "matar_tf").iterdir()}
    assert {"artifact", "keras", "run"} < modules
    assert not modules & set(matar_tf.__all__)


def test_the_list_for_readers_and_checkers_is_the_one_that_works() -> None:
    lines = (ROOT / "matar_tf/__init__.py").read_text().splitlines()
    words = [line.split() for line in lines if line.startswith("    from matar_tf")]
    listed = {word[3]: word[1].removeprefix("matar_tf.") for word in words}
    assert listed == matar_tf._HOMES
    assert all(word[3] == word[5] for word in words)


@pytest.mark.parametrize("first", ["names", "modules"])
def test_each_is_the_same_before_and_after_all_modules_are_imported(first: str) -> None:
    run(
        f"""
{_WITHOUT}
import matar_tf, types
with_tensorflow = False
{_IMPORT_ALL}
names = [name for name in matar_tf.__all__ if matar_tf._HOMES[name] != "keras"]
assert len(names) > 12
if {first!r} == "modules":
    import_all()
before = {{name: getattr(matar_tf, name) for name in names}}
again = {{name: getattr(matar_tf, name) for name in names}}
import_all()
for name in names:
    after = getattr(matar_tf, name)
    assert after is before[name] is again[name], name
    assert callable(after) and not isinstance(after, types.ModuleType), name
"""
    )


@pytest.mark.slow
def test_so_are_those_that_need_tensorflow() -> None:
    run(
        """
import warnings; warnings.simplefilter("ignore")
import matar_tf, types
with_tensorflow = True
names = matar_tf.__all__
before = {name: getattr(matar_tf, name) for name in names}
"""
        + _IMPORT_ALL
        + """
import_all()
for name in names:
    after = getattr(matar_tf, name)
    assert after is before[name], name
    assert callable(after) and not isinstance(after, types.ModuleType), name
"""
    )


def test_all_that_can_be_called_says_what_it_wants() -> None:
    for name in (
        set(matar_tf.__all__) - NEEDS_TENSORFLOW - {"ModelCard", "list_targets"}
    ):
        function = getattr(matar_tf, name)
        if isinstance(function, type) and issubclass(function, Exception):
            continue
        with pytest.raises(TypeError, match="missing"):
            function()


class TestWithoutTensorFlow:
    def test_what_looks_at_names_does_not_fail(self) -> None:
        run(
            f"""
{_WITHOUT}
import inspect, rlcompleter
import matar_tf
assert set(matar_tf.__all__) <= set(dir(matar_tf))
assert all(hasattr(matar_tf, name) for name in matar_tf.__all__)
found = dict(inspect.getmembers(matar_tf))
assert set(matar_tf.__all__) <= set(found)
completer = rlcompleter.Completer({{"matar_tf": matar_tf}})
assert "quantize_model" in completer.complete("matar_tf.quantize_m", 0)
from matar_tf import *
"""
        )

    def test_a_name_that_needs_it_says_so_where_it_is_used(self) -> None:
        out = run(
            f"""
{_WITHOUT}
import matar_tf
for name in {sorted(NEEDS_TENSORFLOW)!r}:
    for use in (lambda one: one(), lambda one: type("Mine", (one,), {{}})):
        try:
            use(getattr(matar_tf, name))
        except ModuleNotFoundError as error:
            print(error)
        except TypeError:
            print("a class cannot be made of it")
    assert name in repr(getattr(matar_tf, name))
"""
        )
        out += run(
            f"""
{_WITHOUT}
import matar_tf
for use in (lambda: matar_tf.keras, lambda: exec("from matar_tf import keras")):
    try:
        use()
    except ModuleNotFoundError as error:
        print(error)
"""
        )
        lines = out.splitlines()
        sentences = [line for line in lines if line.startswith("Expected TensorFlow")]
        assert len(sentences) >= len(NEEDS_TENSORFLOW) + 2 > 12
        assert all("pip install" in line for line in sentences)
        assert all("tensorflow" in line for line in sentences)

    def test_another_name_is_no_name(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'quantise'"):
            matar_tf.quantise  # noqa: B018
