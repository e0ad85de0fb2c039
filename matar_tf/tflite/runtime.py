"""Running ``.tflite`` files in the interpreters that ship them."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from matar_tf.errors import DataError, ExportError
from matar_tf.tflite._graph_rules import examine, find_fault, written
from matar_tf.tflite._interpreters import (
    check_runtime,
    load_interpreter,
    message_of,
)
from matar_tf.tflite._memory import bytes_of_sample, products_of_sample
from matar_tf.tflite._sandbox import Sandbox
from matar_tf.tflite._schema import (
    CheckedModel,
    OneSampleModel,
    check_builtin,
    op_name,
    parse_model,
)

__all__ = [
    "LITERT_PACKAGE",
    "MAX_THREADS",
    "Runner",
    "foreign_reason",
    "make_interpreter",
]

LITERT_PACKAGE: Final = "ai-edge-litert"  # of the runtime that policies are measured in
MAX_THREADS: Final = 1024  # of an interpreter; at tens of thousands it crashes
_BATCH_SIZE: Final = 64  # samples
_BATCH_BYTES: Final = 1 << 29  # of the tensors of samples that run at a time
_SANDBOX_BATCH: Final = 8  # samples
_SANDBOX_BATCH_BYTES: Final = 1 << 28  # a third of what a sandbox has
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
      runtime: ``litert``, ``tflite_runtime`` or ``tensorflow``. TensorFlow, imported
        first, corrupts tflite_runtime, so that order is refused.
      num_threads: Threads of the interpreter, 1 to `MAX_THREADS`.

    Raises:
      ExportError: If the runtime is unknown or not installed, or refuses the file or
        the threads, or the file has not one float input and one output.
    """

    def __init__(
        self, content: bytes, *, runtime: str = "litert", num_threads: int = 1
    ) -> None:
        content, _ = _vetted(content)
        self._interpreter = make_interpreter(content, runtime, num_threads)
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        types = [np.dtype(one["dtype"]).name for one in inputs]
        if types != ["float32"] or len(outputs) != 1:
            raise ExportError(
                f"Expected a model of one float32 input and one output, got inputs "
                f"{types} and {len(outputs)} outputs; convert it with float32 input "
                "and output, its operators may be of integers."
            )
        self._input, self._output = inputs[0], outputs[0]
        self._largest_batch = _largest_batch(self._interpreter, content, runtime)

    @property
    def sandbox_reason(self) -> str | None:
        """Why the file runs in a process of its own; None if it does not."""
        one = self._interpreter
        return one.reason if isinstance(one, Sandbox) else None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch axis."""
        return tuple(int(size) for size in self._input["shape"][1:])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the outputs of one sample, as the file says."""
        return tuple(int(size) for size in self._output["shape"][1:])

    def predict(
        self, samples: np.ndarray, *, batch_size: int = _BATCH_SIZE
    ) -> np.ndarray:
        """Returns the outputs for float samples ``[num_samples, *input_shape]``.

        Args:
          samples: At least one sample.
          batch_size: How many to run at a time, fewer if these take too much memory;
            the outputs do not depend on it.

        Raises:
          DataError: If the samples have another shape, or the batch size is below 1.
          ExportError: If the file does not run at this batch size, or has not one row
            of outputs for each sample, all alike, or has too many of them.
        """
        if batch_size < 1:
            raise DataError(f"Expected a batch size of at least 1, got {batch_size}.")
        if samples.shape[1:] != self.input_shape or not len(samples):
            raise DataError(
                f"Expected samples of shape {('n', *self.input_shape)}, got "
                f"{samples.shape}; prepare the data as the network was trained on it."
            )
        batch_size = min(batch_size, self._largest_batch)
        # In a sandbox the first sample says how long others may take.
        start = batch_size if self.sandbox_reason is None else 1
        first = self._invoke(samples[:start])
        num_bytes = first.nbytes // len(first) * len(samples)
        if num_bytes > _MAX_OUTPUT_BYTES:
            raise ExportError(
                f"Expected outputs of at most {_MAX_OUTPUT_BYTES} bytes in all, got "
                f"{num_bytes} for {len(samples)} samples; take fewer of them, or a "
                "network with smaller outputs."
            )
        outputs = np.empty((len(samples), *first.shape[1:]), first.dtype)
        outputs[:start] = first
        for place in range(start, len(samples), batch_size):
            found = self._invoke(samples[place : place + batch_size])
            if found.shape[1:] != first.shape[1:]:
                raise ExportError(
                    f"Expected outputs of the shape {first.shape[1:]} of each sample, "
                    f"got {found.shape[1:]}; run a model that matar_tf exported."
                )
            outputs[place : place + batch_size] = found
        return outputs

    def _invoke(self, batch: np.ndarray) -> np.ndarray:
        index = self._input["index"]
        current = self._interpreter.get_input_details()[0]["shape"]
        try:
            if tuple(current) != batch.shape:
                self._interpreter.resize_tensor_input(index, batch.shape)
                self._interpreter.allocate_tensors()
            self._interpreter.set_tensor(index, np.ascontiguousarray(batch, np.float32))
            self._interpreter.invoke()
        except ExportError:  # of a sandbox: a sentence by itself
            raise
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"Expected a model that takes {len(batch)} samples at a time, but the "
                f"runtime does not run it: {message_of(error)}; convert it with a "
                "first axis for samples, of any size."
            ) from error
        outputs = self._interpreter.get_tensor(self._output["index"])
        if outputs.shape[:1] != batch.shape[:1]:
            raise ExportError(
                f"Expected one row of outputs for each of {len(batch)} samples, got "
                f"outputs of shape {outputs.shape}; convert it with a first axis for "
                "samples in inputs and outputs."
            )
        return outputs


def _largest_batch(interpreter: Any, content: bytes, runtime: str) -> int:
    """Returns how many samples may run at a time, at least 1."""
    if isinstance(content, OneSampleModel):
        return 1
    if runtime == "tflite_runtime" and _is_of_one_sample(content):
        return 1
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


def foreign_reason(model: Any) -> str | None:
    """Returns why a file of elsewhere may not run in this process, or None.

    Args:
      model: As `matar_tf.tflite._schema.parse_model` returns it.
    """
    return find_fault(model, max_products=_QUICK_PRODUCTS)


def _vetted(content: bytes) -> tuple[bytes, str | None]:
    """Returns a file in a form that may run in this process, or why it may not.

    Raises:
      ExportError: If it is damaged or has operators that are not builtin.
    """
    if isinstance(content, CheckedModel):
        return content, None
    model = parse_model(content)
    check_builtin(model)
    fault, is_of_one_sample = examine(model, max_products=_QUICK_PRODUCTS)
    if fault is not None:
        return content, fault
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
    content, fault = _vetted(content)
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
