"""Names that matar_tf.keras gives out are never those of its modules."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import matar_tf.keras

MODULES = [
    one.name
    for one in pkgutil.walk_packages(matar_tf.keras.__path__, "matar_tf.keras.")
]


def test_no_public_name_is_that_of_a_module() -> None:
    direct = {name.removeprefix("matar_tf.keras.") for name in MODULES}
    assert {"quantize", "policies", "calibration", "train"} <= direct
    assert direct & set(matar_tf.keras.__all__) == set()


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_the_same_after_a_module_is_imported(name: str) -> None:
    before = {one: getattr(matar_tf.keras, one) for one in matar_tf.keras.__all__}
    module = importlib.import_module(name)
    for one in getattr(module, "__all__", ()):
        assert hasattr(module, one)
    for one, value in before.items():
        assert getattr(matar_tf.keras, one) is value


def test_registered_classes_go_by_their_own_names() -> None:
    objects = matar_tf.keras.keras.utils.get_custom_objects()
    ours = {name: one for name, one in objects.items() if name.startswith("matar_tf>")}
    assert len(ours) > 10
    assert {f"matar_tf>{one.__name__}" for one in ours.values()} == set(ours)
