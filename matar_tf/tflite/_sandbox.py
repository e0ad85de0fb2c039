"""An interpreter in a process of its own, for files that nobody here has checked.

Native code that is given such a file may end its process, hang, or ask for all memory.
Here that is the end of a child process, and an error in this one. The child has limits
of memory and of processor time, which the operating system enforces; what it answers is
read as plain data.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from multiprocessing.connection import Connection, Pipe
from typing import Any, Final

import numpy as np

from matar_tf.errors import ExportError
from matar_tf.io.limits import limit_memory, limit_time
from matar_tf.tflite._interpreters import load_interpreter, message_of

__all__ = ["Sandbox", "serve"]

_SECONDS: Final = 2.5  # of processor time, to open a file and to run one sample
_PRODUCTS_PER_SECOND: Final = 2e9  # of a small machine, for which there is more time
_MAX_PRODUCTS: Final = 2e10  # as far as a file is believed; VGG16 has 1.5e10
_WAIT_SECONDS: Final = 120.0  # for an answer, on a busy machine
_SLOWER: Final = 10.0  # times the slowest sample so far, that a sample may take
_BYTES: Final = 3 << 28  # of memory, beside the runtime's and the file's own
_BYTES_PER_THREAD: Final = 16 << 20
_MAX_ANSWER: Final = 1 << 28
_MAX_REQUEST: Final = 1 << 30  # a file
_START: Final = """
import sys
sys.path[:] = sys.argv[2:]
from matar_tf.tflite._sandbox import serve
serve(int(sys.argv[1]))
"""


class Sandbox:
    """Has the methods of an interpreter that are used here; a child does the work.

    Args:
      content: The ``.tflite`` bytes.
      runtime: See `matar_tf.tflite.runtime.Runner`.
      num_threads: Threads of the interpreter.
      reason: Why the file does not run in this process, a sentence without its ends.
      num_products: Multiplications of one sample, as far as they are known.

    Raises:
      ExportError: If the runtime is not installed or refuses the file, or the child
        ends, here as in every method.
    """

    def __init__(
        self,
        content: bytes,
        runtime: str,
        num_threads: int,
        *,
        reason: str,
        num_products: int = 0,
    ) -> None:
        self.reason = reason
        self.invoke_seconds = 0.0  # that the last run took, without the way there
        self._runtime = runtime
        ours, theirs = Pipe()
        with theirs:
            handle = theirs.fileno()
            # Not multiprocessing's spawn, which runs the user's script again.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(handle), *sys.path],
                pass_fds=[handle],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "MALLOC_ARENA_MAX": "1"},
            )
        self._connection = ours
        self.close = weakref.finalize(self, _end, self._process, ours)
        stored = np.frombuffer(content, np.uint8)
        more = min(num_products, _MAX_PRODUCTS) / _PRODUCTS_PER_SECOND
        self._call("open", runtime, num_threads, more, array=stored)
        self._call("allocate_tensors")

    def get_input_details(self) -> list[dict[str, Any]]:
        """Returns index, shape and type of each input."""
        return self._details("get_input_details")

    def get_output_details(self) -> list[dict[str, Any]]:
        """Returns index, shape and type of each output."""
        return self._details("get_output_details")

    def resize_tensor_input(self, index: int, shape: Any) -> None:
        """Changes the shape of an input."""
        self._call("resize_tensor_input", index, [int(size) for size in shape])

    def allocate_tensors(self) -> None:
        """Makes room for the tensors."""
        self._call("allocate_tensors")

    def set_tensor(self, index: int, values: np.ndarray) -> None:
        """Copies values into an input."""
        self._call("set_tensor", index, array=values)

    def invoke(self) -> None:
        """Runs the file."""
        self.invoke_seconds = float(self._call("invoke")[0])

    def get_tensor(self, index: int) -> np.ndarray:
        """Returns a copy of a tensor."""
        return self._call("get_tensor", index)[1]

    def _details(self, name: str) -> list[dict[str, Any]]:
        answer, _ = self._call(name)
        return [
            {
                "index": int(one["index"]),
                "shape": np.array(one["shape"], np.int32),
                "dtype": np.dtype(str(one["dtype"])).type,
            }
            for one in answer
        ]

    def _call(
        self, name: str, *values: Any, array: np.ndarray | None = None
    ) -> tuple[Any, np.ndarray]:
        """Returns what the child answers: plain data, and an array or an empty one."""
        try:
            _send(self._connection, [name, *values], array)
            if not self._connection.poll(_WAIT_SECONDS):
                self._process.kill()
            (kind, answer), found = _receive(self._connection, _MAX_ANSWER)
        except (OSError, EOFError, ValueError, TypeError, LookupError) as error:
            self.close()
            raise ExportError(
                f"Expected a .tflite file that {self._runtime} can run, but the "
                f"process that ran it {_ending(self._process.returncode)} in {name}; "
                f"{self.reason}; export or fetch the file again."
            ) from error
        if kind == "error":
            raise ExportError(
                f"{self._runtime} refuses the model: {message_of(answer)}; "
                f"{self.reason}; export or fetch the file again."
            )
        return answer, found


def _ending(status: int | None) -> str:
    """Returns how a child ended, as a verb."""
    if status is None or status >= 0:
        return "stopped answering"
    names = {signal.SIGXCPU: "ran out of time", signal.SIGKILL: "was killed"}
    number = signal.Signals(-status)
    return names.get(number, f"was ended by {number.name}")


def _end(process: subprocess.Popen[bytes], connection: Connection) -> None:
    """Ends a child, which has nothing to save."""
    connection.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.2)
    process.kill()
    process.wait()


def _send(connection: Connection, message: Any, array: np.ndarray | None) -> None:
    values = np.zeros(0, np.uint8) if array is None else array
    header = [message, values.dtype.name, values.shape]
    connection.send_bytes(json.dumps(header).encode())
    connection.send_bytes(values.tobytes())


def _receive(connection: Connection, most: int) -> tuple[Any, np.ndarray]:
    message, dtype, shape = json.loads(connection.recv_bytes(most))
    content = connection.recv_bytes(most)
    return message, np.frombuffer(content, dtype).reshape(shape).copy()


def serve(handle: int) -> None:
    """Runs one file for the process that holds the other end, until that is closed.

    Args:
      handle: File descriptor of this end.
    """
    connection = Connection(handle)
    worker = _Worker()
    with contextlib.suppress(EOFError, OSError):
        while True:
            (name, *values), array = _receive(connection, _MAX_REQUEST)
            try:
                answer, found = worker.call(name, values, array)
                _send(connection, ["value", answer], found)
            except (ExportError, RuntimeError, ValueError, MemoryError) as error:
                said = message_of(error) or "it takes too much memory"
                _send(connection, ["error", said], None)


class _Worker:
    """The interpreter in the child, and its limits."""

    def __init__(self) -> None:
        self._interpreter: Any = None
        self._num_threads = 1
        self._allowed = _SECONDS
        self._num_samples = 1
        self._seconds = 0.0  # of the slowest sample so far; 0 before the first

    def call(
        self, name: str, values: list[Any], array: np.ndarray
    ) -> tuple[Any, np.ndarray | None]:
        """Returns what a method of the interpreter returns, as plain data."""
        if name == "open":
            self._open(*values, content=array.tobytes())
            return None, None
        if name == "set_tensor":
            self._num_samples = max(1, *array.shape[:1])
            self._interpreter.set_tensor(values[0], array)
            return None, None
        if name == "invoke":
            start = time.perf_counter()
            self._invoke()
            return time.perf_counter() - start, None
        if self._seconds:
            limit_time(self._allowed * self._num_threads)
        found = getattr(self._interpreter, name)(*values)
        if name == "get_tensor":
            return None, np.asarray(found)  # a scalar comes as a number
        return [_plain(one) for one in found or []], None

    def _open(
        self, runtime: str, num_threads: int, more_seconds: float, *, content: bytes
    ) -> None:
        make = load_interpreter(runtime)
        own = len(content) * 4 + num_threads * _BYTES_PER_THREAD
        limit_memory(_BYTES + own)
        self._allowed = _SECONDS + more_seconds
        limit_time(self._allowed * num_threads)
        self._num_threads = num_threads
        self._interpreter = make(model_content=content, num_threads=num_threads)

    def _invoke(self) -> None:
        if self._seconds:
            known = _SLOWER * self._seconds * self._num_samples
            limit_time(max(self._allowed, known) * self._num_threads)
        start = time.process_time()
        self._interpreter.invoke()
        spent = (time.process_time() - start) / self._num_samples
        self._seconds = max(self._seconds, spent)


def _plain(details: dict[str, Any]) -> dict[str, Any]:
    return {
        "index": int(details["index"]),
        "shape": [int(size) for size in details["shape"]],
        "dtype": np.dtype(details["dtype"]).name,
    }
