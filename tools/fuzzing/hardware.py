"""Target files, latency tables and policies."""

from __future__ import annotations

import functools
import json
import math
import random
from pathlib import Path
from typing import Any, Final

from matar_tf.api import estimate
from matar_tf.artifact import Artifact, read_artifact
from matar_tf.targets import load_target
from matar_tf.tflite.build import ModelBuilder
from tools.fuzzing.inputs import ContradictionError, Door, Input, Kind
from tools.fuzzing.programs import run
from tools.fuzzing.seeds import ROOT, any_policy, any_seed, seeds
from tools.fuzzing.values import any_text, change_document, change_text

__all__ = ["POLICY", "TABLE", "TARGET"]

_TARGET, _TABLE, _POLICY, _ARTIFACT = (
    "mine.toml",
    "latency.csv",
    "mine.json",
    "net.matar",
)
_CATALOGUE: Final = sorted((ROOT / "matar_tf/targets/data").glob("*.toml"))
_FIRST: Final = 6  # digits_net or another small one, which every target takes
_COMPUTE: Final = '[compute]\nkind = "table"\nfile = "latency.csv"\nsource = "x"\n\n'


def _network() -> Artifact:
    return seeds()[_FIRST].artifact


def _make_target(rng: random.Random) -> Input:
    path = rng.choice(_CATALOGUE)
    text = path.read_text(encoding="utf-8")
    content = change_text(rng, text)
    if rng.random() < 0.2:
        content = change_text(rng, content.decode("utf-8", "replace") or "\n")
    return Input(
        kind=TARGET.name,
        door=rng.choice(["load", "price", "program", "schema"]),
        change=path.stem,
        files={_TARGET: content},
    )


def _load(folder: Path) -> None:
    repr(load_target(folder / _TARGET))


def _price(folder: Path) -> None:
    """Prices a policy; what is accepted has finite figures that are not negative."""
    artifact = _network()
    cost = estimate(
        artifact, artifact.space.policy("w8a8"), load_target(folder / _TARGET)
    )
    figures = {
        name: getattr(cost, name) for name in ("cycles", "energy_pj", "weight_bytes")
    }
    for name, value in figures.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ContradictionError(f"{name} {value}")


def _check(folder: Path) -> None:
    run("targets", "check", folder / _TARGET)


def _show(folder: Path) -> None:
    run("targets", "show", folder / _TARGET)


TARGET: Final = Kind(
    name="target",
    share=8,
    make=_make_target,
    doors={"load": _load, "price": _price, "program": _check, "schema": _show},
)


def _make_table(rng: random.Random) -> Input:
    rows = ["layer,weight_bits,activation_bits,value,unit"]
    for layer in _network().workload.layers:
        bits = "" if layer.weights is None else 8
        unit = rng.choice(["cycles", "us", "ms", "s", "ns"])
        rows.append(f"{layer.name},{bits},8,{rng.uniform(1, 1000):.3f},{unit}")
    table = "\n".join(rows) + "\n"
    target = _table_target()
    if rng.random() < 0.15:
        outside = ["../outside/canary", "/etc/passwd", ".", "latency.csv/x", "\x00"]
        name = rng.choice([*outside, any_text(rng)[:300]])
        target = target.replace('"latency.csv"', json.dumps(name))
        content = table.encode()
    else:
        content = change_text(rng, table)
    return Input(
        kind=TABLE.name,
        door=rng.choice(["load", "price", "program"]),
        change="table",
        files={_TARGET: target.encode("utf-8", "replace"), _TABLE: content},
    )


@functools.cache
def _table_target() -> str:
    """A target of the catalogue that is priced by a latency table."""
    text = (ROOT / "matar_tf/targets/data/mpic.toml").read_text(encoding="utf-8")
    start, stop = text.index("[compute]"), text.index("[[ops]]")
    return text[:start] + _COMPUTE + text[stop:]


TABLE: Final = Kind(
    name="latency table",
    share=3,
    make=_make_table,
    doors={"load": _load, "price": _price, "program": _check},
)


def _make_policy(rng: random.Random) -> Input:
    seed = any_seed(rng)
    policy = any_policy(rng, seed.artifact.space)
    text = json.dumps(policy.to_json(), indent=1)
    change = rng.choice([change_document, change_document, change_text])
    return Input(
        kind=POLICY.name,
        door=rng.choice(["build", "program"]),
        change=seed.artifact.name,
        files={_POLICY: change(rng, text), _ARTIFACT: seed.archive},
    )


def _build(folder: Path) -> None:
    artifact = read_artifact(folder / _ARTIFACT)
    policy = artifact.space.policy(folder / _POLICY)
    widths: list[Any] = [*policy.weights.values(), *policy.activations.values()]
    if not all(type(bits) is int and 2 <= bits <= 8 for bits in widths):
        raise ContradictionError(f"widths {widths}")
    ModelBuilder(artifact).build(policy)


def _cost(folder: Path) -> None:
    run("cost", folder / _ARTIFACT, f"--policies={folder / _POLICY}", "--targets=mpic")


_DOORS: Final[dict[str, Door]] = {"build": _build, "program": _cost}
POLICY: Final = Kind(name="policy", share=3, make=_make_policy, doors=_DOORS)
