"""Running ``.tflite`` files in the interpreters that ship them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from matar_tf.errors import DataError, ExportError
from matar_tf.named_arrays import Arrays, alone, by_name, num_rows
from matar_tf.tflite._graph_rules import examine, find_fault, written
from matar_tf.tflite._interpreters import (
    check_runtime,
    load_interpreter,
    message_of,
)
from matar_tf.tflite._memory import bytes_of_sample, products_of_sample
from matar_tf.tflite._micro import MicroInterpreter, micro_fault
from matar_tf.tflite._sandbox import Sandbox
from matar_tf.tflite._schema import (
    CheckedModel,
    OneSampleModel,
    check_builtin,
    is_decoded,
    op_name,
    parse_model,
    parse_stored,
    write_model,
)
from matar_tf.tflite.ends import inputs_of, outputs_of, to_levels, to_values
from matar_tf.tflite.metadata import drop_standard

__all__ = [
    "LITERT_PACKAGE",
    "MAX_THREADS",
    "MICRO_PACKAGE",
    "Runner",
    "check_installed",
    "foreign_reason",
    "make_interpreter",
]

# Of the runtimes that policies are measured in.
LITERT_PACKAGE: Final = "ai-edge-litert"
MICRO_PACKAGE: Final = "tflite-micro"
MAX_THREADS: Final = 1024  # of an interpreter; at tens of thousands it crashes
_BYTES: Final = {"int8", "uint8"}
_INPUT_TYPES: Final = {"float32", "int32", *_BYTES}
_BATCH_SIZE: Final = 64  # samples
_BATCH_BYTES: Final = 1 << 29  # of the tensors of samples that run at a time
_SANDBOX_BATCH: Final = 8  # samples
_SANDBOX_BATCH_BYTES: Final = 1 << 28  # a third of what a sandbox has
# What GATHER says of an index (``kernels/gather.cc``).
_BEYOND_A_TABLE: Final = ("gather index out of bounds", "indices_has_only_positive")
_MAX_OUTPUT_BYTES: Final = 1 << 28  # of all samples; ImageNet's have 2 * 10**8
# Beyond, a file of elsewhere runs in a sandbox, which has a time: kernels that are not
# XNNPACK's take many seconds for one sample. VGG16 has 1.5 * 10**10.
_QUICK_PRODUCTS: Final = 1 << 34


class Runner:
    """One file in one interpreter, at any batch size.

    A file whose graph is not one that matar_tf checks runs in a process of its own,
    whose death is an error.

    Args:
      content: The ``.tflite`` bytes.
      runtime: ``litert``, ``tflite_runtime``, ``tensorflow``, or ``tflm``, the one for
        microcontrollers. TensorFlow, imported first, corrupts tflite_runtime, so that
        order is refused.
      num_threads: Threads of the interpreter, 1 to `MAX_THREADS`.

    Raises:
      ExportError: If the runtime is unknown or not installed, or refuses the file or
        the threads, or the file has an input that is of another type than float32,
        int32, int8 and uint8.
    """

    def __init__(
        self, content: bytes, *, runtime: str = "litert", num_threads: int = 1
    ) -> None:
        content, _ = _vetted(content, runtime)
        self._interpreter = make_interpreter(content, runtime, num_threads)
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        types = [np.dtype(one["dtype"]).name for one in inputs]
        if not set(types) <= _INPUT_TYPES or not inputs or not outputs:
            raise ExportError(
                f"Expected a model of float32 inputs and outputs, got inputs {types} "
                f"and {len(outputs)} outputs; convert it with float32 input and "
                "output, its operators may be of integers."
            )
        made = {np.dtype(one["dtype"]).name for one in outputs}
        has_bytes = bool({*types, *made} & _BYTES)
        # Real values come and go, whatever is between: by the grids of these.
        self._tensors = parse_model(content).subgraphs[0].tensors if has_bytes else None
        self._inputs: Mapping[str, Any] = {"input": inputs[0]}
        self._outputs: Mapping[str, Any] = {"output": outputs[0]}
        if len(inputs) > 1 or len(outputs) > 1:
            # Small files are read as long as they run: one end needs no name.
            model = parse_model(content)
            self._inputs = _by_name(inputs, inputs_of(model))
            self._outputs = _by_name(outputs, outputs_of(model))
        self._largest_batch = _largest_batch(self._interpreter, content, runtime)

    @property
    def sandbox_reason(self) -> str | None:
        """Why the file runs in a process of its own; None if it does not."""
        one = self._interpreter
        return one.reason if isinstance(one, Sandbox) else None

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one sample of each input, without the batch axis.

        Only several have names of their own; so it is with outputs.
        """
        return {name: _sizes(one) for name, one in self._inputs.items()}

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each output for one sample, as the file says."""
        return {name: _sizes(one) for name, one in self._outputs.items()}

    def zeros(self) -> Arrays:
        """Returns a sample that is all zero."""
        shapes = self.input_shapes
        return alone({k: np.zeros((1, *shapes[k]), np.float32) for k in shapes})

    def predict(self, samples: Arrays, *, batch_size: int = _BATCH_SIZE) -> Any:
        """Returns the outputs for samples ``[num_samples, ...]``.

        Args:
          samples: At least one sample; of several inputs, by their names.
          batch_size: How many to run at a time, fewer if these take too much memory;
            the outputs do not depend on it.

        Returns:
          The array of the output; of several, a mapping by their names. What a file
          takes and gives in bytes is of real values here.

        Raises:
          DataError: If the samples have another shape, or indices beyond a table, or
            the batch size is below 1.
          ExportError: If the file does not run at this batch size, or has not one row
            of outputs for each sample, all alike, or has too many of them.
        """
        if batch_size < 1:
            raise DataError(f"Expected a batch size of at least 1, got {batch_size}.")
        given = by_name(samples, list(self._inputs), "samples for each input")
        for name, shape in self.input_shapes.items():
            if given[name].shape[1:] != shape or not len(given[name]):
                raise DataError(
                    f"Expected samples of shape {('n', *shape)}, got "
                    f"{given[name].shape}; prepare the data as the network was "
                    "trained on it."
                )
        if self._tensors is None:
            return alone(self._predict(given, min(batch_size, self._largest_batch)))
        levels = {
            name: to_levels(given[name], self._tensors[int(one["index"])])
            for name, one in self._inputs.items()
        }
        found = self._predict(levels, min(batch_size, self._largest_batch))
        return alone(
            {
                name: to_values(found[name], self._tensors[int(one["index"])])
                for name, one in self._outputs.items()
            }
        )

    def _predict(
        self, samples: Mapping[str, np.ndarray], batch_size: int
    ) -> dict[str, np.ndarray]:
        number = num_rows(samples)
        # In a sandbox the first sample says how long others may take.
        start = batch_size if self.sandbox_reason is None else 1
        first = self._invoke({name: one[:start] for name, one in samples.items()})
        num_bytes = sum(one.nbytes // len(one) * number for one in first.values())
        if num_bytes > _MAX_OUTPUT_BYTES:
            raise ExportError(
                f"Expected outputs of at most {_MAX_OUTPUT_BYTES} bytes in all, got "
                f"{num_bytes} for {number} samples; take fewer of them, or a "
                "network with smaller outputs."
            )
        outputs = {
            name: np.empty((number, *one.shape[1:]), one.dtype)
            for name, one in first.items()
        }
        for name, one in first.items():
            outputs[name][:start] = one
        for place in range(start, number, batch_size):
            part = slice(place, place + batch_size)
            found = self._invoke({name: one[part] for name, one in samples.items()})
            for name, one in found.items():
                if one.shape[1:] != first[name].shape[1:]:
                    raise ExportError(
                        f"Expected outputs of the shape {first[name].shape[1:]} of "
                        f"each sample, got {one.shape[1:]}; run a model that matar_tf "
                        "exported."
                    )
                outputs[name][part] = one
        return outputs

    def _invoke(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        number = num_rows(batch)
        details = {
            one["index"]: one["shape"] for one in self._interpreter.get_input_details()
        }
        try:
            is_resized = False
            for name, one in self._inputs.items():
                if tuple(details[one["index"]]) != batch[name].shape:
                    shape = batch[name].shape
                    self._interpreter.resize_tensor_input(one["index"], shape)
                    is_resized = True
            if is_resized:
                self._interpreter.allocate_tensors()
            for name, one in self._inputs.items():
                values = np.ascontiguousarray(batch[name], one["dtype"])
                self._interpreter.set_tensor(one["index"], values)
            self._interpreter.invoke()
        except ExportError:  # of a sandbox: a sentence by itself
            raise
        except (RuntimeError, ValueError) as error:
            said = message_of(error)
            if any(words in said for words in _BEYOND_A_TABLE):
                raise DataError(
                    "Expected indices of rows that the tables of the network have, "
                    "from 0 on, got samples with others; prepare the data as the "
                    "network was trained on it."
                ) from error
            raise ExportError(
                f"Expected a model that takes {number} samples at a time, but the "
                f"runtime does not run it: {said}; convert it with a "
                "first axis for samples, of any size."
            ) from error
        outputs = {
            name: self._interpreter.get_tensor(one["index"])
            for name, one in self._outputs.items()
        }
        for found in outputs.values():
            if found.shape[:1] != (number,):
                raise ExportError(
                    f"Expected one row of outputs for each of {number} samples, got "
                    f"outputs of shape {found.shape}; convert it with a first axis for "
                    "samples in inputs and outputs."
                )
        return outputs


def _by_name(details: Any, ends: Any) -> dict[str, Any]:
    """Returns what an interpreter says of inputs or outputs, by their names."""
    by_index = {int(one["index"]): one for one in details}
    return {one.name: by_index[one.index] for one in ends}


def _sizes(detail: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in detail["shape"][1:])


def _largest_batch(interpreter: Any, content: bytes, runtime: str) -> int:
    """Returns how many samples may run at a time, at least 1."""
    if isinstance(content, OneSampleModel):
        return 1
    if runtime == "tflite_runtime" and _is_of_one_sample(content):
        return 1
    if isinstance(interpreter, MicroInterpreter):
        return _BATCH_SIZE
    if isinstance(interpreter, Sandbox):
        size = bytes_of_sample(parse_model(content))
        return min(max(_SANDBOX_BATCH_BYTES // size, 1), _SANDBOX_BATCH)
    # Reading a small network's file takes as long as running it: where all of its
    # tensors at once are few bytes, that is enough.
    size = sum(
        math.prod(map(int, one["shape"])) * np.dtype(one["dtype"]).itemsize
        for one in interpreter.get_tensor_details()
    )
    if size * _BATCH_SIZE > _BATCH_BYTES:
        size = bytes_of_sample(parse_model(content))
    return max(_BATCH_BYTES // size, 1)


def _is_of_one_sample(content: bytes) -> bool:
    """Whether builtin kernels make one sample of any number: the file says how many."""
    model = parse_model(content)
    operators = model.subgraphs[0].operators
    return any(op_name(model, one) == "TRANSPOSE_CONV" for one in operators)


def check_installed(runtime: str) -> None:
    """Checks that a runtime can be loaded.

    Raises:
      ExportError: If it is unknown or not installed.
    """
    load_interpreter(runtime)


def foreign_reason(model: Any) -> str | None:
    """Returns why a file of elsewhere may not run in this process, or None.

    Args:
      model: As `matar_tf.tflite._schema.parse_model` returns it.
    """
    return find_fault(model, max_products=_QUICK_PRODUCTS)


def _vetted(content: bytes, runtime: str) -> tuple[bytes, str | None]:
    """Returns a file in a form that may run in this process, or why it may not.

    Raises:
      ExportError: If it is damaged or has operators that are not builtin, or that
        another runtime has alone.
    """
    is_micro = runtime == "tflm"
    if not is_micro and is_decoded(content):
        raise ExportError(
            "Expected the runtime 'tflm' for a file of kernels that are indices into "
            f"tables, got {runtime!r}, which cannot decode them; choose that runtime, "
            "or export with another profile."
        )
    if isinstance(content, CheckedModel):
        return content, micro_fault(parse_model(content)) if is_micro else None
    model = parse_model(content)
    check_builtin(model)
    fault, is_of_one_sample = examine(model, max_products=_QUICK_PRODUCTS)
    if fault is None and is_micro:
        fault = micro_fault(model)
    if fault is not None:
        return content, fault
    if is_micro:  # as it is stored, of which the model is what comes out
        stored = parse_stored(content)
        drop_standard(stored)
        return CheckedModel(write_model(stored)), None
    return written(model, is_of_one_sample=is_of_one_sample), None


def make_interpreter(content: bytes, runtime: str, num_threads: int) -> Any:
    """Returns an interpreter of a file, its tensors allocated.

    It runs in a `Sandbox` if there is a `foreign_reason`, unless it was built here.

    Raises:
      ExportError: If the runtime is unknown or not installed, or refuses the file or
        the threads, or the file is damaged or has operators that are not builtin.
    """
    if not 1 <= num_threads <= MAX_THREADS:
        raise ExportError(
            f"Expected 1 to {MAX_THREADS} threads of an interpreter, got {num_threads}."
        )
    check_runtime(runtime)
    content, fault = _vetted(content, runtime)
    if fault is not None:
        known = products_of_sample(parse_model(content))
        return Sandbox(content, runtime, num_threads, reason=fault, num_products=known)
    make = load_interpreter(runtime)
    try:
        interpreter = make(model_content=content, num_threads=num_threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"{runtime} refuses the model: {message_of(error)}; export it again."
        ) from error
    return interpreter
