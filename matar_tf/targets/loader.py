"""Reads target files strictly: every mistake is named with its key and its remedy."""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeAlias, cast, get_args

from pydantic import BaseModel, ValidationError

from matar_tf.errors import TargetError, did_you_mean
from matar_tf.io.files import as_path, read_at_most
from matar_tf.targets import compute as _compute
from matar_tf.targets import sections as _sections
from matar_tf.targets.fields import MAX_COUNT
from matar_tf.targets.latency_table import read_latency_table
from matar_tf.targets.target import Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["list_targets", "load_target", "parse_target", "target_json_schema"]

_SUFFIX: Final = ".toml"
_MAX_BYTES: Final = 1 << 16  # in memory up to 1,700 times as many
# In one line. Python's parser takes time and memory by the square of the parts of a
# dotted key, which no target file has.
_MAX_DOTS: Final = 40
_Location: TypeAlias = tuple[int | str, ...]

# Discriminators appear in the places that pydantic reports; the file has no such key.
_TAGS: Final[dict[str, type[BaseModel]]] = {
    "bit_parallel": _compute.BitParallelCompute,
    "bit_serial": _compute.BitSerialCompute,
    "block": _compute.BlockCompute,
    "folded": _compute.FoldedCompute,
    "fused": _compute.FusedCompute,
    "n_eureka": _compute.NEurekaCompute,
    "ne16": _compute.Ne16Compute,
    "table": _compute.TableCompute,
    "array": _sections.ArrayOps,
    "vector": _sections.VectorOps,
    "cpu": _sections.CpuOps,
    "active_power": _sections.ActivePowerEnergy,
    "events": _sections.EventEnergy,
    "vela": _sections.VelaBackend,
    "litert": _sections.LitertBackend,
}
_TAGGED: Final = frozenset({"compute", "ops", "energy", "backend"})


def list_targets() -> tuple[str, ...]:
    """Returns the names of the catalogue, in alphabetical order."""
    names = (entry.name for entry in _catalogue().iterdir())
    return tuple(
        sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
    )


def load_target(name_or_path: str | Path) -> Target:
    """Reads a target of the catalogue, or a file.

    Args:
      name_or_path: A name from `list_targets`, or a path: a string that ends in
        ``.toml``, or a `Path`.

    Returns:
      The checked target.

    Raises:
      TargetError: If the name is unknown, the file cannot be read or is not TOML, or
        a key is unknown, missing, of a wrong type or out of its range. The message
        lists all such keys.
    """
    if not isinstance(name_or_path, (str, Path)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TargetError(
            "Expected the name of one target, or the path of a .toml file, got "
            f"{type(name_or_path).__name__}."
        )
    if isinstance(name_or_path, Path) or name_or_path.endswith(_SUFFIX):
        path = as_path(name_or_path, "a target", TargetError)
        return parse_target(read_at_most(path, _MAX_BYTES, TargetError), path)
    names = list_targets()
    if name_or_path not in names:
        raise TargetError(
            f"Expected the name of a target, or a path that ends in {_SUFFIX!r}, got "
            f"{str(name_or_path)!r}. {did_you_mean(str(name_or_path), names)}"
        )
    file = _catalogue().joinpath(f"{name_or_path}{_SUFFIX}")
    return parse_target(file.read_bytes(), Path(file.name))


def target_json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a target file.

    It knows keys, types, ranges and choices. What ties keys together (a rate for each
    pair of widths, the class, what needs a [cpu]) is checked by `load_target` only.
    """
    schema = Target.model_json_schema(by_alias=True)
    table = cast("dict[str, Any]", schema["$defs"]["TableCompute"])
    # The rows stand in a CSV file of their own.
    del table["properties"]["entries"]
    table["required"].remove("entries")
    del schema["$defs"]["TableEntry"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _catalogue() -> Any:
    return resources.files("matar_tf.targets").joinpath("data")


def parse_target(content: bytes, path: Path) -> Target:
    """Returns the target of a file's bytes.

    Args:
      content: The bytes.
      path: Of the file, in errors; a latency table lies beside it.

    Raises:
      TargetError: As `load_target`.
    """
    where = str(path)
    most = max(line.count(b".") for line in content.split(b"\n"))
    if most > _MAX_DOTS:
        raise TargetError(
            f"Expected at most {_MAX_DOTS} dots in a line of the target file "
            f"{where!r}, got {most}; break the line, or name tables in brackets."
        )
    try:
        document = tomllib.loads(content.decode("utf-8-sig"))
        _insert_table(document, path)
        # JSON lists become tuples and strings become enums even in strict mode.
        text = json.dumps(document)
    except TargetError:
        raise
    except RecursionError as error:
        raise TargetError(
            f"Expected a target file in TOML at {where!r}, got one that is nested too "
            "deeply."
        ) from error
    # Wrong bytes, wrong TOML, and integers of thousands of digits.
    except ValueError as error:
        raise TargetError(
            f"Expected a target file in TOML at {where!r}, got: {error}."
        ) from error
    except TypeError as error:
        raise TargetError(
            f"Expected no dates or times in the target file {where!r}, got: {error}."
        ) from error
    try:
        return Target.model_validate_json(text)
    except ValidationError as error:
        problems = [_describe(one) for one in _causes(cast("Any", error.errors()))]
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise TargetError(
            f"The target file {where!r} has {len(problems)} mistakes:{lines}"
            if len(problems) > 1
            else f"The target file {where!r} has a mistake: {problems[0]}"
        ) from error


def _insert_table(document: dict[str, Any], path: Path) -> None:
    """Puts the rows of a latency table, a CSV file, where the model expects them."""
    compute = document.get("compute")
    if not isinstance(compute, dict):
        return
    table = cast("dict[str, Any]", compute)
    if table.get("kind") != "table":
        return
    if "entries" in table:
        raise TargetError(
            f"The target file {str(path)!r} has a mistake: Unknown key "
            "compute.entries. The rows of a latency table stand in its CSV file."
        )
    file = table.get("file")
    if not isinstance(file, str):
        got = "nothing" if file is None else repr(file)
        raise TargetError(
            f"The target file {str(path)!r} has a mistake: Expected the path of a CSV "
            f"file under the key compute.file, got {got}."
        )
    clock = document.get("clock")
    found: Any = None
    if isinstance(clock, dict):
        found = cast("dict[str, Any]", clock).get("frequency_hz")
    # A clock that is missing or wrong is a mistake of its own, reported later.
    known = isinstance(found, int) and 0 < found <= MAX_COUNT
    frequency_hz = cast("int", found) if known else 1
    table["entries"] = read_latency_table(path.parent, file, frequency_hz)


def _causes(problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns problems without those that only follow from others.

    A list counts as too short if its items have mistakes.
    """
    holders = {
        one["loc"][:depth] for one in problems for depth in range(len(one["loc"]))
    }
    return [
        one
        for one in problems
        if one["type"] != "too_short" or one["loc"] not in holders
    ]


def _describe(problem: dict[str, Any]) -> str:
    """Returns one sentence on a problem: key, what was expected, what came."""
    place: _Location = problem["loc"]
    key = _key(place)
    context: dict[str, Any] = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            hint = did_you_mean(str(place[-1]), _keys(_model_at(place[:-1])))
            return f"Unknown key {key}. {hint}"
        case "missing":
            return f"Expected the key {key}, got nothing."
        case "value_error":
            return f"{key}: {context['error']}.".removeprefix("file: ")
        case "enum" | "literal_error" | "union_tag_invalid":
            return _describe_choice(key, problem)
        case "union_tag_not_found":
            tag = str(context["discriminator"]).strip("'")
            return f"Expected the key {key}.{tag}, got nothing."
        case "too_short":
            return f"{key}: expected at least {context['min_length']} item."
        case "string_too_long":
            length, most = len(problem["input"]), context["max_length"]
            return (
                f"{key}: expected at most {most} characters, got {length}; shorten it."
            )
        case _:
            message = str(problem["msg"])
            if message.startswith("Input should be "):
                message = f"expected {message.removeprefix('Input should be ')}"
            return (
                f"{key}: {message[0].lower()}{message[1:]}, got {problem['input']!r}."
            )


def _describe_choice(key: str, problem: dict[str, Any]) -> str:
    context: dict[str, Any] = problem["ctx"]
    got = problem["input"]
    if problem["type"] == "union_tag_invalid":
        key = f"{key}.{str(context['discriminator']).strip(chr(39))}"
        got = context["tag"]
    expected = str(context.get("expected", context.get("expected_tags")))
    known = [word.strip("' ") for word in expected.replace(" or ", ",").split(",")]
    if not isinstance(got, str):
        return f"{key}: expected {expected}, got {got!r}."
    return f"{key}: unknown value {got!r}. {did_you_mean(got, known)}"


def _key(place: _Location) -> str:
    """Returns a place as the file writes it: ``ops[0].weight_bits[1]``."""
    parts: list[str] = []
    for index, part in enumerate(place):
        if _is_tag(place, index):
            continue
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            parts.append(f".{part}" if part.isprintable() else f".{part!r}")
    return "".join(parts).removeprefix(".") or "file"


def _is_tag(place: _Location, index: int) -> bool:
    """Returns whether a part of a place is a discriminator and not a key."""
    if index == 0 or place[0] not in _TAGGED:
        return False
    return index == (2 if place[0] == "ops" else 1) and place[index] in _TAGS


def _model_at(place: _Location) -> type[BaseModel]:
    """Returns the model of the table at a place."""
    model: type[BaseModel] = Target
    for index, part in enumerate(place):
        if isinstance(part, int):
            continue
        if _is_tag(place, index):
            model = _TAGS[part]
        elif part in model.model_fields:
            model = _inner_model(model.model_fields[part].annotation) or model
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """Returns the only model inside an annotation such as ``tuple[Rate, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]
