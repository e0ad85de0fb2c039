"""How a file is fed: code to copy, in Python and in C++, for the runtime it is for."""

from __future__ import annotations

import keyword
import math
from collections.abc import Sequence
from typing import Any

from matar_tf.errors import readable_line
from matar_tf.tflite._micro import MICRO_OPERATORS
from matar_tf.tflite._schema import is_decoded, op_name, parse_model, type_name
from matar_tf.tflite.ends import Input, Output, grid_of, inputs_of, outputs_of
from matar_tf.tflite.input_range import InputGrid, grids_of_file

__all__ = ["CPP_TYPES", "feeding", "resolver_calls"]

CPP_TYPES = {
    "FLOAT32": "float",
    "INT32": "int32_t",
    "INT8": "int8_t",
    "UINT8": "uint8_t",
}
# Of the code itself.
_OWN_WORDS = ("arena", "inputs", "interpreter", "model", "np", "outputs", "resolver")
_NUMPY_TYPES = {name: name.lower() for name in CPP_TYPES}


def feeding(content: bytes, name: str) -> str:
    """Returns code that runs a file on one sample, in Python and in C++.

    Args:
      content: The file.
      name: Its path, as the code opens it.
    """
    model = parse_model(content)
    given, made = inputs_of(model), outputs_of(model)
    grids = grids_of_file(content)
    tensors = model.subgraphs[0].tensors
    is_micro = is_decoded(content)
    fed = [_fed(one, tensors[one.index], grids[one.name]) for one in given]
    read = [_read(one, tensors[one.index]) for one in made]
    if is_micro:
        python, cpp = _python_of_micro, _cpp_of_micro(resolver_calls(content))
    else:
        python, cpp = _python_of_litert, _cpp_of_litert(name)
    lines = [
        *("In Python:", "", *python(name, fed, read), ""),
        *("In C++:", "", *cpp, *_cpp_run(fed, read)),
    ]
    return "\n".join(f"  {readable_line(line)}" if line else "" for line in lines)


def resolver_calls(content: bytes) -> tuple[str, ...]:
    """Returns how a resolver is told of the operators of a file: ``AddConv2D``."""
    model = parse_model(content)
    names = {op_name(model, one) for one in model.subgraphs[0].operators}
    calls = {f"Add{MICRO_OPERATORS.get(name, name)}" for name in names}
    return tuple(sorted(calls | ({"AddDecode"} if is_decoded(content) else set())))


class _End:
    """An input or output as code names it."""

    def __init__(self, end: Input, tensor: Any, told: str) -> None:
        self.name = end.name
        self.kind = type_name(tensor.type)
        self.shape = (1, *end.shape)
        self.size = math.prod(end.shape)
        self.told = told
        self.grid: tuple[float, int] | None = None
        if self.kind in ("INT8", "UINT8"):
            step, zero_point = grid_of(tensor)
            self.grid = float(step), zero_point

    @property
    def word(self) -> str:
        """Its name as a variable."""
        kept = (one if one.isalnum() and one.isascii() else "_" for one in self.name)
        found = "".join(kept)
        is_free = found.isidentifier() and not keyword.iskeyword(found)
        return found if is_free and found not in _OWN_WORDS else f"x_{found}"


def _fed(end: Input, tensor: Any, grid: InputGrid | None) -> _End:
    told = "integers" if type_name(tensor.type) == "INT32" else "real values"
    if grid is not None:
        told += f" of {grid.low:.6g} to {grid.high:.6g}"
    return _End(end, tensor, f"{told}, as at training")


def _read(end: Output, tensor: Any) -> _End:
    told = "a value each"
    if end.gives_probabilities:
        told = "probabilities"
    elif end.is_sigmoid:
        told = "a probability each"
    elif len(end.shape) == 1 and end.shape[0] > 1:
        told = "a score for each class, or a value each"
    return _End(end, tensor, told)


def _python_levels(end: _End) -> list[str]:
    """Returns lines that make what an input takes of real values."""
    lines = [
        f"{end.word} = np.zeros({end.shape}, np.float32)  # {end.told}",
    ]
    if end.grid is None:
        kind = _NUMPY_TYPES.get(end.kind, "float32")
        return [lines[0].replace("np.float32", f"np.{kind}")]
    scale, zero_point = end.grid
    low, high = (-128, 127) if end.kind == "INT8" else (0, 255)
    return [
        *lines,
        f"{end.word} = np.rint({end.word} / {scale!r}) + {zero_point}",
        f"{end.word} = np.clip({end.word}, {low}, {high})",
        f"{end.word} = {end.word}.astype(np.{end.kind.lower()})",
    ]


def _python_values(end: _End, source: str) -> list[str]:
    if end.grid is None:
        return [f"{end.word} = {source}  # {end.told}"]
    scale, zero_point = end.grid
    return [
        f"{end.word} = {source}.astype(np.float32)",
        f"{end.word} = ({end.word} - {zero_point}) * {scale!r}  # {end.told}",
    ]


def _python_of_litert(
    name: str, fed: Sequence[_End], read: Sequence[_End]
) -> list[str]:
    begin = [
        "import numpy as np",
        "from ai_edge_litert.interpreter import Interpreter",
        "",
        f"interpreter = Interpreter({name!r})",
        "interpreter.allocate_tensors()",
        "inputs = [one['index'] for one in interpreter.get_input_details()]",
        "outputs = [one['index'] for one in interpreter.get_output_details()]",
    ]
    return _python(
        begin,
        fed,
        read,
        "interpreter.set_tensor(inputs[{place}], {word})",
        "interpreter.get_tensor(outputs[{place}])",
    )


def _python_of_micro(name: str, fed: Sequence[_End], read: Sequence[_End]) -> list[str]:
    begin = [
        "import numpy as np",
        "from tflite_micro.python.tflite_micro.runtime import Interpreter",
        "",
        f"interpreter = Interpreter.from_file({name!r})",
    ]
    return _python(
        begin,
        fed,
        read,
        "interpreter.set_input({word}, {place})",
        "interpreter.get_output({place})",
    )


def _python(
    begin: Sequence[str],
    fed: Sequence[_End],
    read: Sequence[_End],
    setting: str,
    getting: str,
) -> list[str]:
    """Returns lines that feed and read a file; two of them as a runtime has them."""
    lines = [*begin]
    for place, end in enumerate(fed):
        lines += _python_levels(end)
        lines.append(setting.format(place=place, word=end.word))
    lines.append("interpreter.invoke()")
    for place, end in enumerate(read):
        lines += _python_values(end, getting.format(place=place))
    return lines


def _cpp_levels(end: _End) -> str:
    shape = " x ".join(map(str, end.shape[1:]))
    if end.grid is None:
        return f"{shape}, {end.told}"
    scale, zero_point = end.grid
    return f"{shape}: round(x / {scale!r}) + {zero_point} of {end.told}"


def _cpp_values(end: _End) -> str:
    if end.grid is None:
        return end.told
    return f"(y - {end.grid[1]}) * {end.grid[0]!r} is {end.told}"


def _cpp_of_litert(name: str) -> list[str]:
    path = name.replace("\\", "\\\\").replace('"', '\\"')
    return [
        f'auto model = tflite::FlatBufferModel::BuildFromFile("{path}");',
        "tflite::ops::builtin::BuiltinOpResolver resolver;",
        "std::unique_ptr<tflite::Interpreter> interpreter;",
        "tflite::InterpreterBuilder(*model, resolver)(&interpreter);",
    ]


def _cpp_of_micro(calls: Sequence[str]) -> list[str]:
    return [
        f"tflite::MicroMutableOpResolver<{len(calls)}> resolver;",
        *(f"resolver.{call}();" for call in calls),
        "auto interpreter = std::make_unique<tflite::MicroInterpreter>(",
        "    tflite::GetModel(model), resolver, arena, sizeof(arena));",
    ]


def _cpp_run(fed: Sequence[_End], read: Sequence[_End]) -> list[str]:
    """Returns what both interpreters are told alike."""
    lines = ["interpreter->AllocateTensors();"]
    for place, end in enumerate(fed):
        kind = CPP_TYPES.get(end.kind, "float")
        lines += [
            f"// {end.name}: {_cpp_levels(end)}",
            f"{kind}* {end.word} = interpreter->typed_input_tensor<{kind}>({place});",
        ]
    lines.append("interpreter->Invoke();")
    for place, end in enumerate(read):
        kind = CPP_TYPES.get(end.kind, "float")
        lines += [
            f"// {end.name}: {end.size}, {_cpp_values(end)}",
            f"const {kind}* {end.word} =",
            f"    interpreter->typed_output_tensor<{kind}>({place});",
        ]
    return lines
