"""Artifacts as zip files, with all that can be wrong in one."""

from __future__ import annotations

import io
import json
import random
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Final

from matar_tf.artifact import read_artifact
from tools.fuzzing.bombs import bomb
from tools.fuzzing.inputs import Input, Kind
from tools.fuzzing.seeds import Seed, any_seed, content_of, signed, zipped
from tools.fuzzing.values import change_bytes, flip_bit

__all__ = ["ARCHIVE", "NAMES"]

_ZIP = "net.matar"
_MANIFEST, _TEMPLATE, _ARRAYS = "manifest.json", "template.tflite", "parameters.npz"
_METHODS: Final = (
    *(zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA),
)
# Names of members.
NAMES: Final = (
    *("../outside/canary", "/outside/canary", "..\\outside\\canary", "a/../../b"),
    *("./manifest.json", "manifest.json/", "MANIFEST.JSON", "", "x" * 65_000),
    *("README.md", "LICENSE", ".gitattributes", "model.sig", "evil.py", "\x1b[2J"),
    *("manifest.json\x00.txt", "template.tflite/../evil", "calibration.npz"),
)


def _make_archive(rng: random.Random) -> Input:
    seed = any_seed(rng)
    tricks = [_changed_bytes, _directory, _renamed, _repeated, _bomb, _methods]
    trick = rng.choice(tricks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two members of one name
        content = trick(rng, seed)
    is_bomb = trick is _bomb  # which its author may have signed
    return Input(
        kind=ARCHIVE.name,
        door="read",
        change=f"{seed.artifact.name}: {trick.__name__}",
        files={_ZIP: content},
        expected=None if is_bomb else content_of(seed.artifact),
    )


def _changed_bytes(rng: random.Random, seed: Seed) -> bytes:
    change = rng.choice([flip_bit, flip_bit, change_bytes])
    return change(rng, seed.archive)


def _directory(rng: random.Random, seed: Seed) -> bytes:
    """Changes a field of a header: sizes, method, checksum, flags, offsets."""
    method = rng.choice(_METHODS)
    changed = bytearray(zipped(seed.members, method))
    signature = rng.choice([b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"])
    places: list[int] = []
    at = changed.find(signature)
    while at >= 0:
        places.append(at)
        at = changed.find(signature, at + 4)
    start = rng.choice(places)
    size = rng.choice([2, 4])
    field = start + rng.randrange(4, 46 if signature[2] == 1 else 26, 2)
    if field + size > len(changed):
        field = len(changed) - size
    number = rng.choice([0, 1, 12, 14, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, 100, 10**6])
    changed[field : field + size] = (number % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(changed)


def _renamed(rng: random.Random, seed: Seed) -> bytes:
    members = dict(seed.members)
    name = rng.choice(NAMES)
    if rng.random() < 0.5:
        members[name] = members.pop(rng.choice(sorted(members)))
    else:
        members[name] = rng.choice([b"", b"x", b"\x7fELF", members[_MANIFEST]])
    try:
        return zipped(members)
    except (ValueError, struct.error):
        return seed.archive


def _repeated(rng: random.Random, seed: Seed) -> bytes:
    """Adds a member twice, or links, folders, or very many; without the time of day."""
    buffer = io.BytesIO(seed.archive)
    with zipfile.ZipFile(buffer, "a") as archive:
        match rng.randrange(4):
            case 0:
                name = rng.choice(sorted(seed.members))
                content = change_bytes(rng, seed.members[name])
                archive.writestr(zipfile.ZipInfo(name), content)
            case 1:
                link = zipfile.ZipInfo(rng.choice(["link", _MANIFEST, "network.json"]))
                link.create_system, link.external_attr = 3, 0o120777 << 16
                archive.writestr(link, "/etc/passwd")
            case 2:
                archive.writestr(zipfile.ZipInfo("folder/"), b"")
            case _:
                for number in range(rng.choice([10, 3_000])):
                    archive.writestr(zipfile.ZipInfo(f"{number}"), b"")
    return buffer.getvalue()


def _bomb(rng: random.Random, seed: Seed) -> bytes:
    """Lets a member, or an array of one, unfold to more than there is room for."""
    name = rng.choice([_MANIFEST, _TEMPLATE, _ARRAYS, "network.json", "network.npz"])
    num_zeros = rng.choice([10**8, 13 * 10**8, 3 * 10**9])
    claimed = rng.choice([1, 1000, num_zeros, 10**8])
    content = bomb(name, num_zeros, claimed=claimed, bzip2=rng.random() < 0.5)
    if rng.random() < 0.4:
        return content
    # In a member that is a zip file itself, beside all others and under valid digests.
    inner = bomb("a.npy", num_zeros, claimed=claimed, bzip2=rng.random() < 0.5)
    if rng.random() < 0.3:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }"
        header = (header % (num_zeros * 100)).ljust(117) + b"\n"
        inner = zipped({"a.npy": b"\x93NUMPY\x01\x00v\x00" + header})
    members = {**seed.members, rng.choice([_ARRAYS, "network.npz"]): inner}
    return zipped(signed(members, json.loads(members[_MANIFEST])))


def _methods(rng: random.Random, seed: Seed) -> bytes:
    return zipped(seed.members, rng.choice(_METHODS))


def _read(folder: Path) -> str:
    return content_of(read_artifact(folder / _ZIP))


ARCHIVE: Final = Kind(
    name="archive", share=10, make=_make_archive, doors={"read": _read}
)
