"""Running ``.tflite`` files in the interpreters that ship them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from matar_tf.errors import DataError, ExportError, did_you_mean

__all__ = ["RUNTIMES", "Runner"]

RUNTIMES: Final = {
    "litert": "ai_edge_litert.interpreter",
    "tensorflow": "tensorflow.lite",
    "tflite_runtime": "tflite_runtime.interpreter",
}


class Runner:
    """One file in one interpreter, at any batch size.

    Args:
      content: The ``.tflite`` bytes.
      runtime: ``litert``, ``tflite_runtime`` or ``tensorflow``. TensorFlow must not be
        imported before tflite_runtime in one process: it corrupts the latter.
      num_threads: Threads of the interpreter.

    Raises:
      ExportError: If the runtime is unknown or not installed, or refuses the file.
    """

    def __init__(
        self, content: bytes, *, runtime: str = "litert", num_threads: int = 1
    ) -> None:
        make = _interpreter_class(runtime)
        try:
            self._interpreter = make(model_content=content, num_threads=num_threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ExportError(f"{runtime} refuses the model: {error}") from error
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch axis."""
        return tuple(int(size) for size in self._input["shape"][1:])

    def predict(self, samples: np.ndarray, *, batch_size: int = 64) -> np.ndarray:
        """Returns the outputs for float samples ``[num_samples, *input_shape]``.

        Raises:
          DataError: If the samples have another shape.
        """
        if samples.shape[1:] != self.input_shape or not len(samples):
            raise DataError(
                f"Expected samples of shape {('n', *self.input_shape)}, got "
                f"{samples.shape}; prepare the data as the network was trained on it."
            )
        outputs = [
            self._invoke(samples[start : start + batch_size])
            for start in range(0, len(samples), batch_size)
        ]
        return np.concatenate(outputs)

    def _invoke(self, batch: np.ndarray) -> np.ndarray:
        index = self._input["index"]
        current = self._interpreter.get_input_details()[0]["shape"]
        if tuple(current) != batch.shape:
            self._interpreter.resize_tensor_input(index, batch.shape)
            self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(index, np.ascontiguousarray(batch, np.float32))
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])


def _interpreter_class(runtime: str) -> Callable[..., Any]:
    if runtime not in RUNTIMES:
        raise ExportError(
            f"Expected a runtime, got {runtime!r}. {did_you_mean(runtime, RUNTIMES)}"
        )
    try:
        return importlib.import_module(RUNTIMES[runtime]).Interpreter
    except ModuleNotFoundError as error:
        raise ExportError(
            f"The runtime {runtime!r} is not installed ({error.name!r} is missing); "
            f"install it, or choose another of {sorted(RUNTIMES)}."
        ) from error
