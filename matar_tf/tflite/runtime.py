"""Running ``.tflite`` files in the interpreters that ship them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from matar_tf.errors import DataError, ExportError
from matar_tf.tflite._graph_rules import find_fault
from matar_tf.tflite._interpreters import (
    check_runtime,
    load_interpreter,
    message_of,
)
from matar_tf.tflite._sandbox import Sandbox
from matar_tf.tflite._schema import (
    CheckedModel,
    check_builtin,
    parse_model,
    write_model,
)

__all__ = ["LITERT_PACKAGE", "MAX_THREADS", "Runner", "make_interpreter"]

LITERT_PACKAGE: Final = "ai-edge-litert"  # of the runtime that policies are measured in
MAX_THREADS: Final = 1024  # of an interpreter; at tens of thousands it crashes
_SANDBOX_BATCH: Final = 8  # samples; its memory is bounded


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

    @property
    def sandbox_reason(self) -> str | None:
        """Why the file runs in a process of its own; None if it does not."""
        one = self._interpreter
        return one.reason if isinstance(one, Sandbox) else None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch axis."""
        return tuple(int(size) for size in self._input["shape"][1:])

    def predict(self, samples: np.ndarray, *, batch_size: int = 64) -> np.ndarray:
        """Returns the outputs for float samples ``[num_samples, *input_shape]``.

        Args:
          samples: At least one sample.
          batch_size: How many to run at a time; the outputs do not depend on it.

        Raises:
          DataError: If the samples have another shape, or the batch size is below 1.
          ExportError: If the file does not run at this batch size, or has not one row
            of outputs for each sample.
        """
        if batch_size < 1:
            raise DataError(f"Expected a batch size of at least 1, got {batch_size}.")
        if samples.shape[1:] != self.input_shape or not len(samples):
            raise DataError(
                f"Expected samples of shape {('n', *self.input_shape)}, got "
                f"{samples.shape}; prepare the data as the network was trained on it."
            )
        outputs: list[np.ndarray] = []
        start = 0
        if self.sandbox_reason is not None:
            # The first sample says how long others may take.
            outputs, start = [self._invoke(samples[:1])], 1
            batch_size = min(batch_size, _SANDBOX_BATCH)
        outputs += [
            self._invoke(samples[place : place + batch_size])
            for place in range(start, len(samples), batch_size)
        ]
        return np.concatenate(outputs)

    def _invoke(self, batch: np.ndarray) -> np.ndarray:
        index = self._input["index"]
        current = self._interpreter.get_input_details()[0]["shape"]
        try:
            if tuple(current) != batch.shape:
                self._interpreter.resize_tensor_input(index, batch.shape)
                self._interpreter.allocate_tensors()
            self._interpreter.set_tensor(index, np.ascontiguousarray(batch, np.float32))
            self._interpreter.invoke()
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


def make_interpreter(content: bytes, runtime: str, num_threads: int) -> Any:
    """Returns an interpreter of a file, its tensors allocated.

    It runs in this process if the graph of the file passes `find_fault`, as each that
    was built here does, and else in a `Sandbox`.

    Raises:
      ExportError: If the runtime is unknown or not installed, or refuses the file or
        the threads, or the file is damaged or has operators that are not builtin.
    """
    if not 1 <= num_threads <= MAX_THREADS:
        raise ExportError(
            f"Expected 1 to {MAX_THREADS} threads of an interpreter, got {num_threads}."
        )
    check_runtime(runtime)
    if not isinstance(content, CheckedModel):
        model = parse_model(content)
        check_builtin(model)
        fault = find_fault(model)
        if fault is not None:
            return Sandbox(content, runtime, num_threads, reason=fault)
        content = CheckedModel(write_model(model))
    make = load_interpreter(runtime)
    try:
        interpreter = make(model_content=content, num_threads=num_threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"{runtime} refuses the model: {message_of(error)}; export it again."
        ) from error
    return interpreter
