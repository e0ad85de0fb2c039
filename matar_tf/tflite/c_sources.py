"""C++ sources for a microcontroller: a file as an array, and a program that runs it.

They are for TensorFlow Lite for Microcontrollers: the array is constant, so that it
stays in flash, and aligned as its interpreter reads it; the program has a resolver of
just the operators of the file and an arena of the size that the interpreter reports.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from matar_tf.errors import ExportError
from matar_tf.io.files import write_atomically
from matar_tf.tflite._micro import check_micro
from matar_tf.tflite._schema import parse_model, type_name
from matar_tf.tflite.ends import inputs_of, outputs_of
from matar_tf.tflite.feeding import CPP_TYPES, resolver_calls

__all__ = ["arena_bytes", "check_sources", "source_paths", "write_sources"]

_ALIGNMENT: Final = 16  # bytes, of flatbuffers and of the arena
_PER_LINE: Final = 12
_MEMBERS: Final = {"FLOAT32": "f", "INT32": "i32", "INT8": "int8", "UINT8": "uint8"}
_SECONDS: Final = 120.0
_REPORTED: Final = re.compile(r"Arena allocation total (\d+) bytes")
# Reads a file and runs zeros; the interpreter then reports on standard error.
_REPORT: Final = """
import sys
import numpy as np
sys.path[:] = sys.argv[1:]
from tflite_micro.python.tflite_micro.runtime import Interpreter
content = sys.stdin.buffer.read()
size = int.from_bytes(content[:8], "little")
interpreter = Interpreter.from_bytes(content[16:], arena_size=size)
for place in range(int.from_bytes(content[8:16], "little")):
    details = interpreter.get_input_details(place)
    zeros = np.zeros(details["shape"], details["dtype"])
    interpreter.set_input(zeros, place)
interpreter.invoke()
interpreter.print_allocations()
"""
_ARENA_LIMIT: Final = 1 << 30


def arena_bytes(content: bytes) -> int:
    """Returns the memory that a file takes, as the interpreter reports it.

    It is that of a machine of 64 bits; one of 32 bits takes less.

    Args:
      content: A file that was checked or built here.

    Raises:
      ExportError: If it does not run, or takes more than 1 GiB.
    """
    number = len(parse_model(content).subgraphs[0].inputs)
    header = _ARENA_LIMIT.to_bytes(8, "little") + number.to_bytes(8, "little")
    done = subprocess.run(
        [sys.executable, "-c", _REPORT, *sys.path],
        input=header + bytes(content),
        capture_output=True,
        timeout=_SECONDS,
        check=False,
    )
    said = done.stderr.decode(errors="replace")
    found = _REPORTED.search(said)
    if found is None:
        raise ExportError(
            "Expected a file that TensorFlow Lite for Microcontrollers runs, but it "
            f"said: {' '.join(said.split())[-300:]}; export it again."
        )
    return -(-int(found[1]) // _ALIGNMENT) * _ALIGNMENT


def source_paths(path: Path) -> tuple[Path, ...]:
    """Returns where the sources of a file are: header, array, program."""
    stem = path.with_suffix("")
    return tuple(
        stem.with_name(f"{stem.name}_{end}")
        for end in ("model.h", "model.cc", "main.cc")
    )


def check_sources(path: str | Path, *, overwrite: bool) -> None:
    """Checks that the sources of a file may be written beside it.

    Raises:
      ExportError: If one is there, and `overwrite` is False.
    """
    for one in source_paths(Path(path)):
        if one.exists() and not overwrite:
            raise ExportError(
                f"Expected no file at {one}, where C++ sources of the model go, but "
                "there is one; choose another path or pass overwrite=True."
            )


def write_sources(content: bytes, path: Path) -> tuple[Path, ...]:
    """Writes the sources of a file beside it.

    Args:
      content: The file, which was checked or built here.
      path: Where it is.

    Returns:
      Where they are; see `source_paths`.

    Raises:
      ExportError: If TensorFlow Lite for Microcontrollers does not run it.
    """
    model = parse_model(content)
    check_micro(model)
    paths = source_paths(path)
    name = _identifier(path.with_suffix("").name)
    calls = resolver_calls(content)
    texts = (
        _header(name, len(content), arena_bytes(content)),
        _array(name, content, paths[0].name),
        _program(name, model, calls, paths[0].name),
    )
    for one, text in zip(paths, texts, strict=True):
        write_atomically(one, text.encode())
    return paths


def _identifier(name: str) -> str:
    found = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"m_{found}" if found[0].isdigit() else found


def _header(name: str, num_bytes: int, arena: int) -> str:
    guard = f"{name.upper()}_MODEL_H_"
    return f"""#ifndef {guard}
#define {guard}

// A model for TensorFlow Lite for Microcontrollers.
extern const unsigned char {name}_model[];
constexpr unsigned int {name}_model_bytes = {num_bytes};
// As the interpreter reports it on a machine of 64 bits; one of 32 takes less.
constexpr unsigned int {name}_arena_bytes = {arena};

#endif  // {guard}
"""


def _array(name: str, content: bytes, header: str) -> str:
    values = [f"0x{one:02x}," for one in content]
    lines = (
        "  " + " ".join(values[at : at + _PER_LINE])
        for at in range(0, len(values), _PER_LINE)
    )
    body = "\n".join(lines)
    return f"""#include "{header}"

alignas({_ALIGNMENT}) const unsigned char {name}_model[] = {{
{body}
}};
"""


def _program(name: str, model: Any, calls: Sequence[str], header: str) -> str:
    tensors = model.subgraphs[0].tensors
    samples: list[str] = []
    feeds: list[str] = []
    for place, end in enumerate(inputs_of(model)):
        kind, count = type_name(tensors[end.index].type), math.prod(end.shape)
        samples.append(
            f"// {end.name}: {' x '.join(map(str, end.shape))}, "
            f"{_range_of(tensors[end.index], kind)}\n"
            f"static const {CPP_TYPES[kind]} sample_{place}[{count}] = {{0}};"
        )
        feeds.append(
            f"  std::memcpy(interpreter.input({place})->data.raw, sample_{place}, "
            f"sizeof(sample_{place}));"
        )
    first = outputs_of(model)[0]
    kind, count = type_name(tensors[first.index].type), math.prod(first.shape)
    adds = "\n".join(f"  resolver.{call}();" for call in calls)
    return f"""#include <cstdint>
#include <cstdio>
#include <cstring>

#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"
#include "{header}"

{chr(10).join(samples)}
alignas({_ALIGNMENT}) static uint8_t arena[{name}_arena_bytes];

int main() {{
  tflite::MicroMutableOpResolver<{len(calls)}> resolver;
{adds}
  tflite::MicroInterpreter interpreter(tflite::GetModel({name}_model), resolver, arena,
                                       sizeof(arena));
  if (interpreter.AllocateTensors() != kTfLiteOk) return 1;
{chr(10).join(feeds)}
  if (interpreter.Invoke() != kTfLiteOk) return 1;
  const {CPP_TYPES[kind]}* output = interpreter.output(0)->data.{_MEMBERS[kind]};
  int best = 0;
  for (int i = 1; i < {count}; ++i)
    if (output[i] > output[best]) best = i;
  std::printf("class %d\\n", best);
  return 0;
}}
"""


def _range_of(tensor: Any, kind: str) -> str:
    """Returns what values mean."""
    grid = tensor.quantization
    if kind == "FLOAT32" or grid is None or not np.size(grid.scale):
        return "real values" if kind == "FLOAT32" else "integers"
    scale, zero_point = float(grid.scale[0]), int(grid.zeroPoint[0])
    return f"(value - {zero_point}) * {scale:.9g}"
