"""The interpreters of ``.tflite`` files, as their packages make them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, Final

from matar_tf.errors import ExportError, did_you_mean

__all__ = ["RUNTIMES", "check_runtime", "load_interpreter", "message_of"]

RUNTIMES: Final = {
    "litert": "ai_edge_litert.interpreter",
    "tensorflow": "tensorflow",
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
    try:
        loaded: Any = importlib.import_module(module)
    except ImportError as error:
        raise ExportError(
            f"The runtime {runtime!r} is not installed, or not for this Python and "
            f"NumPy ({error}); install it, or choose another of {sorted(RUNTIMES)}."
        ) from error
    return loaded.lite.Interpreter if runtime == "tensorflow" else loaded.Interpreter
