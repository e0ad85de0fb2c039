"""The project's documents, and the commands, paths and Python in them."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from programs import flags_of, load

from matar_tf.errors import MatarError
from matar_tf.targets import list_targets
from matar_tf.tflite.profiles import PROFILES
from recipes.common import load_recipe

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("matar_tf", "recipes", "tests", "tools")
PROGRAMS = frozenset(
    path.stem
    for path in (ROOT / "tools").glob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    and path.stem != "common"
)
_HELP = frozenset({"help", "helpfull", "helpshort", "helpxml"})
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_COMMAND = re.compile(r"(?:\S*python )?(?:tools/)?(\w+)\.py(?: (.*))?")
_PLACEHOLDER = re.compile(r"[A-Z_]+|.*\.\.\.|my_\w+")


def documents() -> dict[str, str]:
    """Returns the text of each document, and of the docstring of each recipe."""
    paths = [*ROOT.glob("*.md")]
    for folder in FOLDERS:
        paths += (ROOT / folder).rglob("*.md")
    found = {str(one.relative_to(ROOT)): one.read_text("utf-8") for one in paths}
    for path in (ROOT / "recipes").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lines = (ast.get_docstring(tree) or "").splitlines()
        # Commands stand in lines of their own there.
        named = [re.sub(r".*?(python tools/.*)", r"`\1`", line) for line in lines]
        found[str(path.relative_to(ROOT))] = "\n".join(named)
    return found


def fenced(text: str) -> list[tuple[str, str]]:
    """Returns language and content of each fenced block."""
    return _FENCE.findall(text)


def spans(text: str) -> list[str]:
    """Returns what stands in backticks outside of fenced blocks, each in one line."""
    return [" ".join(one.split()) for one in _SPAN.findall(_FENCE.sub("", text))]


def commands(text: str) -> list[str]:
    """Returns the command lines of programs of `tools/`."""
    lines: list[str] = []
    for language, content in fenced(text):
        if language != "python":
            lines += content.replace("\\\n", " ").splitlines()
    lines += [one for one in spans(text) if _COMMAND.fullmatch(one)]
    # A bare file name is a command only with something after it.
    return [
        line.strip()
        for line in lines
        if re.match(r"\s*(\S*python )?tools/\w+\.py", line)
        or re.match(r"\w+\.py [-\w]", line)
    ]


def problems_of(command: str) -> list[str]:
    """Returns what is wrong with a command line; nothing if one can call it so."""
    match = _COMMAND.fullmatch(command)
    if match is None:
        return [f"no program of tools/: {command}"]
    tool, rest = match[1], (match[2] or "").partition(">")[0]
    if tool not in PROGRAMS:
        # Modules that are mentioned, not called.
        is_module = (ROOT / "tools" / f"{tool}.py").is_file() and not rest
        return [] if is_module else [f"no program tools/{tool}.py"]
    known, found = flags_of(tool), []
    words = shlex.split(rest, comments=True)
    names = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            found += _problems_of_word(tool, word, names)
        elif name in _HELP:
            continue
        elif name.removeprefix("no") in known and not equals:
            continue  # a switch, or a flag that is only mentioned
        elif name not in known:
            found.append(f"{tool}.py has no --{name}")
        else:
            found += _problems_of_value(known[name], name, value)
    return found


def _problems_of_word(tool: str, word: str, names: list[str]) -> list[str]:
    if tool == "benchmark":
        module = load(tool)
        if word not in module._SUITE_BARS:
            return [f"no suite {word}"]
        unknown = set(names) - module._SUITE_FLAGS[word] - _HELP
        return [f"the suite {word} has no --{name}" for name in sorted(unknown)]
    if tool == "show_target":
        return _problems_of_names("target", [word], list_targets())
    if tool == "inspect_model" and word.endswith(".tflite"):
        return []
    return [f"{tool}.py takes no {word}"]


def _problems_of_value(flag: Any, name: str, value: str) -> list[str]:
    if _PLACEHOLDER.fullmatch(value):
        return []
    try:
        flag.parser.parse(value)
        if name == "recipe":
            load_recipe(value)
    except (ValueError, MatarError) as error:
        return [f"--{name}={value}: {error}"]
    if name in ("target", "targets"):
        return _problems_of_names("target", value.split(","), list_targets())
    if name == "profile":
        return _problems_of_names("profile", value.split(","), tuple(PROFILES))
    return [f"no {one}" for one in value.split(",") if not _is_there(one)]


def _problems_of_names(
    kind: str, names: list[str], known: tuple[str, ...]
) -> list[str]:
    return [
        f"no {kind} {one}"
        for one in names
        if one not in known
        and not one.endswith(".toml")
        and not _PLACEHOLDER.fullmatch(one)
    ]


def _is_there(path: str) -> bool:
    """Whether a path is there, if it is one of the repository."""
    return path.partition("/")[0] not in FOLDERS or (ROOT / path).exists()


def missing_paths(name: str, text: str) -> list[str]:
    """Returns the paths and links of a document that lead nowhere.

    Modules may be named from the package on (``keras/layout.py``), and by their file
    name alone; so may files that the package writes (``matrix.md``).
    """
    folder = (ROOT / name).parent
    links = re.findall(r"\]\(([^):#]+)[^):]*\)", _FENCE.sub("", text))
    found = [
        one
        for one in spans(text)
        if re.fullmatch(r"[\w./-]+\.(py|md)", one)
        or re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]*", one)
    ]
    places = (ROOT, ROOT / "matar_tf", folder)
    return [one for one in links if not (folder / one).exists()] + [
        one
        for one in found
        if not any((place / one).exists() for place in places)
        and ("/" in one or not _is_file_name(one))
    ]


def _is_file_name(name: str) -> bool:
    """Whether a file of the repository, or one that it writes, is called so."""
    modules = (ROOT / "matar_tf").rglob("*.py")
    return any(ROOT.glob(f"*/**/{name}")) or any(
        f'"{name}"' in path.read_text(encoding="utf-8") for path in modules
    )


def unknown_flags(text: str) -> list[str]:
    """Returns the flags that are named by themselves and that no program has."""
    known = _HELP.union(*(flags_of(tool) for tool in PROGRAMS))
    named = re.findall(r"(?<![^ ])--(\w+)", " ".join(_flag_spans(text)))
    return [one for one in named if one not in known]


def _flag_spans(text: str) -> list[str]:
    return [one for one in spans(text) if one.startswith("--")]


def tables(header: str) -> list[list[list[str]]]:
    """Returns the rows of each table of the documents whose header begins so."""
    found: list[list[list[str]]] = []
    for text in documents().values():
        lines = iter(text.splitlines())
        for line in lines:
            if line.startswith(header):
                next(lines)  # | --- |
                found.append(list(_rows(lines)))
    return found


def _rows(lines: Iterator[str]) -> Iterator[list[str]]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def python_problems(blocks: list[str]) -> list[str]:
    """Returns the attributes and keywords of imported modules that there are not."""
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block))]
    names = _imported(nodes)
    found: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Attribute) and _resolved(node, names) is _MISSING:
            found.append(f"no {ast.unparse(node)}")
        elif isinstance(node, ast.Call):
            called = _resolved(node.func, names)
            if called not in (None, _MISSING):
                known = inspect.signature(called).parameters
                given = {one.arg for one in node.keywords if one.arg is not None}
                if not any(one.kind is one.VAR_KEYWORD for one in known.values()):
                    unknown = sorted(given - set(known))
                    found += [f"{ast.unparse(node.func)} has no {x}" for x in unknown]
    return found


def _imported(nodes: list[ast.AST]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for one in node.names:
                root = one.name.partition(".")[0]
                module = importlib.import_module(one.name)
                named = module if one.asname else importlib.import_module(root)
                names[one.asname or root] = named
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for one in node.names:
                names[one.asname or one.name] = getattr(module, one.name)
    return names


_MISSING = object()


def _resolved(node: ast.expr, names: dict[str, Any]) -> Any:
    """Returns what an expression names; None if that is not known before it runs."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    value = _resolved(node.value, names)
    if value is None or value is _MISSING:
        return value
    return getattr(value, node.attr, _MISSING)
