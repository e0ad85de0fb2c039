"""Values that readers stumble over, and changes of bytes, text and JSON by them."""

from __future__ import annotations

import json
import random
from typing import Any, Final

__all__ = [
    "any_float",
    "any_int",
    "any_text",
    "any_value",
    "change_bytes",
    "change_document",
    "change_text",
    "flip_bit",
]

_INTS: Final = (
    *(-1, 0, 1, 2, 3, 7, 8, 9, 16, 127, 128, 129, 255, 256, -2, -128, -129, 1000),
    *(65_535, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**63 - 1, 2**63, -(2**63)),
    *(10**6, 10**9, 10**30, 10**400),
)
_FLOATS: Final = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 1e-3, 1e-8, 1e-30, 1e-38, 1e-45, 1e-300, 5e-324),
    *(1e3, 1e15, 2e26, 3.4e38, 3.5e38, 1e300, 1.7e308, -5.0, 99.0, 1.0000001),
    *(float("inf"), float("-inf"), float("nan")),
)
_TEXTS: Final = (
    *("", " ", "x", "w4a4", "../../outside/canary", "/outside/canary", ".", ".."),
    *("a/b", "a\\b", "\x1b[2J\x1b[31mred", "two\nlines", "a\tb", "a\rb", "\x00"),
    *("=1+1", "@SUM(A1)", "-2", "<script>alert(1)</script>", "{{7*7}}", "%s%n", "é"),
    *("\u202egnp.exe", "\ufeff", "\ud800", "\U0001d54f" * 9, "a" * 300, "a" * 100_000),
    *("NaN", "inf", "1e999", "__class__", "os:system", "None", "true", "CON"),
)
_NUMBERS: Final = (
    *("nan", "inf", "-inf", "NaN", "Infinity", "1e999", "-1", "0", "1_000", "0x10"),
    *("1e-400", "9" * 400, "9" * 5000, "1.5", "2000-01-01", "true", "''", "[]", "{}"),
)
_DEPTHS: Final = (20, 200, 5_000, 100_000)


def any_int(rng: random.Random) -> int:
    """Returns an integer at or beyond some boundary, or a small one."""
    return rng.choice(_INTS) if rng.random() < 0.7 else rng.randint(-300, 300)


def any_float(rng: random.Random) -> float:
    """Returns a float at or beyond some boundary."""
    return rng.choice(_FLOATS)


def any_text(rng: random.Random) -> str:
    """Returns a text that some writer would have to escape."""
    return rng.choice(_TEXTS)


def any_value(rng: random.Random) -> Any:
    """Returns what JSON can hold, of any kind."""
    match rng.randrange(8):
        case 0 | 1:
            return any_int(rng)
        case 2 | 3:
            return any_float(rng)
        case 4 | 5:
            return any_text(rng)
        case 6:
            return rng.choice([None, True, False, [], {}, [[]], {"": {}}])
        case _:
            return [any_int(rng) for _ in range(rng.choice([1, 2, 10, 1000]))]


def flip_bit(rng: random.Random, content: bytes) -> bytes:
    """Returns bytes of which one bit is another."""
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def change_bytes(rng: random.Random, content: bytes) -> bytes:
    """Returns bytes that were cut, grown, or changed in a few places."""
    changed = bytearray(content or b"\0")
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(changed))
        match rng.randrange(8):
            case 0 | 1:
                changed[at] ^= 1 << rng.randrange(8)
            case 2:
                changed[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 3:
                size = rng.choice([2, 4, 8])
                number = any_int(rng) % (1 << (8 * size))
                changed[at : at + size] = number.to_bytes(size, "little")
            case 4:
                del changed[at:]
            case 5:
                del changed[at : at + rng.choice([1, 2, 4, 16, 256])]
            case 6:
                changed[at:at] = rng.randbytes(rng.choice([1, 4, 16, 256]))
            case _:
                other = rng.randrange(len(changed))
                changed[at : at + 32] = changed[other : other + 32]
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def change_text(rng: random.Random, text: str) -> bytes:
    """Returns a text of lines of which one word, number or line is another."""
    lines = text.splitlines()
    at = rng.randrange(len(lines))
    match rng.randrange(9):
        case 0 | 1 | 2:
            words = lines[at].replace(",", " , ").split(" ")
            word = rng.choice([rng.choice(_NUMBERS), str(any_int(rng)), any_text(rng)])
            words[rng.randrange(len(words))] = word
            lines[at] = " ".join(words)
        case 3:
            del lines[at]
        case 4:
            lines.insert(at, rng.choice(lines))
        case 5:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case 6:
            lines[at] += any_text(rng)
        case 7:
            depth = rng.choice(_DEPTHS)
            lines[at] = rng.choice(
                [
                    "x = " + "[" * depth,
                    ".".join("a" * min(depth, 20_000)) + " = 1",
                    "x = " + "{a=" * depth,
                    "[" + ".".join("b" * min(depth, 20_000)) + "]",
                    "x" * depth,
                    '"' * depth,
                ]
            )
        case _:
            return change_bytes(rng, text.encode())
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def change_document(rng: random.Random, content: str | bytes) -> bytes:
    """Returns JSON of which some values or keys are others, or that is broken."""
    if rng.random() < 0.15:
        return change_bytes(
            rng, content if isinstance(content, bytes) else content.encode()
        )
    document = json.loads(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        document = change_tree(rng, document)
    text = json.dumps(document, indent=1)
    if rng.random() < 0.05:
        depth = rng.choice(_DEPTHS)
        nested = rng.choice(
            ["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth]
        )
        text = text.replace(":", f': {nested}, "x":', 1)
    return text.encode()


def change_tree(rng: random.Random, document: Any) -> Any:
    """Changes one place of parsed JSON, which it may take apart; returns it."""
    places: list[tuple[Any, Any]] = []
    _collect(document, places)
    if not places:
        return any_value(rng)
    holder, key = rng.choice(places)
    match rng.randrange(10):
        case 0 | 1 | 2:
            holder[key] = _similar(rng, holder[key])
        case 3 | 4:
            holder[key] = any_value(rng)
        case 5:
            del holder[key]
        case 6:
            other_holder, other_key = rng.choice(places)
            holder[key] = json.loads(json.dumps(other_holder[other_key]))
        case 7 if isinstance(holder, dict):
            holder[any_text(rng)] = holder.pop(key)
        case 8 if isinstance(holder, list):
            holder.extend([holder[key]] * rng.choice([1, 2, 1000]))
        case _:
            holder[key] = [holder[key]] if rng.random() < 0.5 else {"x": holder[key]}
    return document


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    if not isinstance(value, (dict, list)):
        return
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        places.append((value, key))
        _collect(value[key], places)


def _similar(rng: random.Random, value: Any) -> Any:
    """Returns another value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return rng.choice([value + 1, value - 1, -value, value * 100, any_int(rng)])
        case float():
            return rng.choice([-value, value * 100, value / 3, any_float(rng)])
        case str():
            return rng.choice([value + "x", value[:-1], value.upper(), any_text(rng)])
        case list():
            return rng.choice([value[::-1], value[:-1], value + value, []])
        case _:
            return any_value(rng)
