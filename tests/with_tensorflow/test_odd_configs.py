"""Files of Keras 3 with a value of another kind anywhere in their config."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras as keras3
import pytest

from matar_tf.errors import ModelError
from matar_tf.keras import from_keras3

L = keras3.layers
HUGE = 10**400  # more than a float holds
ODD = (
    *(None, True, -1, 0, 2.5, float("inf"), HUGE, "", "x", [], [[[]]], [None], {}),
    *({"a": 1}, {"class_name": []}, {"class_name": "__tensor__", "config": {}}),
    {"build_config": HUGE, "num_classes": HUGE},
)
DROPPED = object()
NUMBER = 40


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Of a file of a network with networks, operations and initializers in it."""
    x = keras3.Input((6, 2), name="x")
    inner = keras3.Sequential([keras3.Input((6, 2)), L.Dense(3, "relu6")])
    y = keras3.ops.concatenate([inner(x), keras3.ops.mean(x, -1, keepdims=True)], -1)
    y = L.TimeDistributed(L.Dense(2), name="each")(y * 2.0 + y[:, ::1])
    path = tmp_path_factory.mktemp("saved") / "net.keras"
    keras3.Model(x, L.Dense(2, kernel_regularizer="l2")(y)).save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value inside of one."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*path, key)
            yield from places(value[key], (*path, key))


def changed(config: Any, path: tuple[Any, ...], odd: Any) -> Any:
    """Returns a config with another value at a path, or none there."""
    new = at = copy.deepcopy(config)
    for key in path[:-1]:
        at = at[key]
    if odd is DROPPED:
        del at[path[-1]]
    else:
        at[path[-1]] = odd
    return new


def converts(members: dict[str, bytes], config: Any, path: Path) -> bool:
    """Whether a file is taken; what else than a sentence it ends in is an error."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, one in {**members, "config.json": json.dumps(config)}.items():
            archive.writestr(name, one)
    path.write_bytes(content.getvalue())
    try:
        from_keras3(path)
    except ModelError:
        return False
    return True


def test_sampled(members: dict[str, bytes], tmp_path: Path) -> None:
    config = json.loads(members["config.json"])
    rng = random.Random(0)
    cases = [(path, odd) for path in places(config) for odd in (*ODD, DROPPED)]
    results = {
        converts(members, changed(config, *case), tmp_path / "net.keras")
        for case in rng.sample(cases, NUMBER)
    }
    assert results == {True, False}


ENDED_IN_TRACEBACKS = (
    *((("module",), odd) for odd in ([], {"a": 1}, 7)),
    *((("class_name",), odd) for odd in (DROPPED, None, [])),
    *((("config",), odd) for odd in (DROPPED, HUGE, [])),
    (("config", "layers", -1, "config", "units"), HUGE),
    (("config", "layers", -1, "config", "bias_initializer"), ODD[-1]),
)


def test_what_decides_before_layers_are_read(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    config = json.loads(members["config.json"])
    odd = [changed(config, *case) for case in ENDED_IN_TRACEBACKS]
    for one in (*odd, None, [], 7, "x", {}):
        assert not converts(members, one, tmp_path / "net.keras")
