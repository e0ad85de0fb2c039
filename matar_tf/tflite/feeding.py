"""How a file is fed: code to copy, in Python and in C++, for the runtime it is for."""

from __future__ import annotations

import json
import keyword
import math
from collections.abc import Callable, Sequence
from typing import Any

from matar_tf.errors import readable_line
from matar_tf.tflite._micro import MICRO_OPERATORS
from matar_tf.tflite._schema import is_decoded, op_name, parse_model, type_name
from matar_tf.tflite.about import About, InputAbout, about_file
from matar_tf.tflite.ends import Input, Output, grid_of, inputs_of, outputs_of
from matar_tf.tflite.input_range import InputGrid, grids_of_file
from matar_tf.tflite.metadata import find_metadata

__all__ = ["CPP_TYPES", "feeding", "resolver_calls"]

CPP_TYPES = {
    "FLOAT32": "float",
    "INT32": "int32_t",
    "INT8": "int8_t",
    "UINT8": "uint8_t",
}
# Of the code itself.
_OWN_WORDS = (
    *("arena", "best", "class_names", "inputs", "int", "interpreter", "model", "np"),
    *("outputs", "print", "resolver", "std"),
)
_MOST_NAMES = 200  # of classes, that code holds
_MOST_CHARS = 60  # of such a name
_LINE = 76  # characters
_NUMPY_TYPES = {name: name.lower() for name in CPP_TYPES}


def feeding(content: bytes, name: str) -> str:
    """Returns code that runs a file on one sample, in Python and in C++.

    Args:
      content: The file.
      name: Its path, as the code opens it.
    """
    model = parse_model(content)
    given, made = inputs_of(model), outputs_of(model)
    about = about_file(find_metadata(model) or {})
    grids = grids_of_file(content)
    tensors = model.subgraphs[0].tensors
    is_micro = is_decoded(content)
    fed = [
        _fed(one, tensors[one.index], about.inputs.get(one.name) or grids[one.name])
        for one in given
    ]
    told = about.outputs
    read = [_read(one, tensors[one.index], told.get(one.name, "")) for one in made]
    if is_micro:
        python, cpp = _python_of_micro, _cpp_of_micro(resolver_calls(content))
    else:
        python, cpp = _python_of_litert, _cpp_of_litert(name)
    lines = [
        *("In Python:", "", *_noted("#", about), *python(name, fed, read)),
        *(*_named(about, made, read, _python_names), "", "In C++:", ""),
        *(*_noted("//", about), *cpp, *_cpp_run(fed, read)),
        *_named(about, made, read, _cpp_names),
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


def _fed(end: Input, tensor: Any, said: InputAbout | InputGrid | None) -> _End:
    told = "integers" if type_name(tensor.type) == "INT32" else "real values"
    if isinstance(said, InputAbout):
        told += f" of {said}"
    elif said is not None:
        told += f" of {said.low:.6g} to {said.high:.6g}"
    return _End(end, tensor, f"{told}, as at training")


def _read(end: Output, tensor: Any, said: str) -> _End:
    return _End(end, tensor, f"{said}: {end.meaning}" if said else end.meaning)


def _noted(mark: str, about: About) -> list[str]:
    """Returns a comment of how samples are made, if somebody says it."""
    words = about.preprocessing
    return [f"{mark} Preprocessing: {words} (in its maker's words)"] if words else []


def _named(
    about: About,
    made: Sequence[Output],
    read: Sequence[_End],
    written: Callable[[_End, Sequence[str]], list[str]],
) -> list[str]:
    """Returns lines that print what a sample's class is called, if that is known."""
    output = about.named_output(made)
    names = about.class_names
    if output is None or len(output.shape) > 1 or len(names) > _MOST_NAMES:
        return []
    # Others would be cut where lines are shown.
    if not all(len(one) <= _MOST_CHARS and one.isprintable() for one in names):
        return []
    return written(read[made.index(output)], names)


def _filled(begin: str, words: Sequence[str], end: str) -> list[str]:
    """Returns words between commas, in lines of some length."""
    lines = [begin, "   "]
    for word in words:
        if len(lines[-1]) + len(word) > _LINE:
            lines.append("   ")
        lines[-1] += f" {word},"
    return [*lines, end]


def _python_names(end: _End, names: Sequence[str]) -> list[str]:
    return [
        *_filled("class_names = [", list(map(repr, names)), "]"),
        f"print(class_names[int({end.word}[0].argmax())])",
    ]


def _cpp_names(end: _End, names: Sequence[str]) -> list[str]:
    words = [json.dumps(one, ensure_ascii=False) for one in names]
    return [
        *_filled("const char* const class_names[] = {", words, "};"),
        f"const auto* best = std::max_element({end.word}, {end.word} + {end.size});",
        f'std::printf("%s\\n", class_names[best - {end.word}]);',
    ]


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
