"""The interpreters of ``.tflite`` files, as their packages make them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any, Final

from matar_tf.errors import ExportError, did_you_mean
from matar_tf.tflite._micro import MicroInterpreter

__all__ = ["RUNTIMES", "check_runtime", "load_interpreter", "message_of"]

RUNTIMES: Final = {
    "litert": "ai_edge_litert.interpreter",
    "tensorflow": "tensorflow",
    "tflm": "tflite_micro.python.tflite_micro.runtime",
    "tflite_runtime": "tflite_runtime.interpreter",
}


_MAX_MESSAGE: Final = 500  # characters of a runtime's own words


def message_of(error: object) -> str:
    """Returns what a runtime says, as part of a sentence."""
    return " ".join(str(error).split())[:_MAX_MESSAGE].rstrip(". ")


def check_runtime(runtime: str) -> None:
    """Checks that a runtime is known.

    Raises:
      ExportError: If it is not.
    """
    if runtime not in RUNTIMES:
        raise ExportError(
            f"Expected a runtime, got {runtime!r}. {did_you_mean(runtime, RUNTIMES)}"
        )


def load_interpreter(runtime: str) -> Callable[..., Any]:
    """Returns the class of a runtime's interpreter.

    Raises:
      ExportError: If the runtime is unknown or not installed.
    """
    check_runtime(runtime)
    module = RUNTIMES[runtime]
    if (
        runtime == "tflite_runtime"
        and module not in sys.modules
        and "tensorflow" in sys.modules
    ):
        raise ExportError(
            "Expected tflite_runtime in a process without TensorFlow, but TensorFlow "
            "is loaded and corrupts it; use a process of its own, or litert."
        )
    if runtime == "tflm" and importlib.util.find_spec("tflite_micro") is None:
        raise ExportError(
            "The runtime 'tflm' (TensorFlow Lite for Microcontrollers) is not "
            "installed; install it with: pip install 'matar_tf[tflm]'."
        )
    try:
        loaded: Any = importlib.import_module(module)
    except ImportError as error:
        raise ExportError(
            f"The runtime {runtime!r} is not installed, or not for this Python and "
            f"NumPy ({error}); install it, or choose another of {sorted(RUNTIMES)}."
        ) from error
    if runtime == "tflm":
        return MicroInterpreter
    return loaded.lite.Interpreter if runtime == "tensorflow" else loaded.Interpreter
