"""One input, one process: with limits, and with eyes on where it writes."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import mmap
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ai_edge_litert import interpreter

import matar_tf
from matar_tf.errors import MatarError
from matar_tf.tflite.simulator import SIMULATED
from tools.fuzzing.inputs import OUTPUT, Contradiction, Input, Kind, Refused, Verdict
from tools.fuzzing.programs import Unreadable, is_readable

__all__ = ["Nursery"]

_MAX_BYTES: Final = 1 << 30  # beside what the process has before it opens anything
_MAX_SECONDS: Final = 5.0  # of processor time
_PATIENCE: Final = 120.0  # seconds by the clock; the machine may be busy
_MAX_REPORT: Final = 1 << 16
_OUT_OF_MEMORY: Final = ("MemoryError", "Unable to allocate", "bad_alloc", "of memory")
_NOT_LOADED: Final = ("matar_tf.keras", "matar_tf.tflite.ray", "matar_tf.__main__")
_LOADED: Final = ("sklearn.datasets", "matplotlib.pyplot", "numpy.lib.format")
_CANARY, _INSIDE = "outside", "inside"
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES: Final = ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.symlink")
_STARTS: Final = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")


@dataclass
class _Report:
    """What a process says of itself before it ends."""

    verdict: Verdict
    words: str


class Nursery:
    """Processes that open one input each, in a folder of their own.

    Args:
      folder: An empty folder. Inputs are placed in a folder of it, beside which
        nothing may appear.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._inside = folder / _INSIDE
        (folder / _CANARY).mkdir()
        (folder / _CANARY / "canary").write_bytes(b"stays")
        self._reached = mmap.mmap(-1, 1)  # shared with the processes
        _tell_when_reached(self._reached)
        _load_all()
        gc.collect()
        gc.freeze()

    def open(
        self, kind: Callable[[str], Kind], make: Callable[[], Input]
    ) -> tuple[Verdict, bool, str]:
        """Opens an input in a process of its own.

        Args:
          kind: Returns the kind of a name.
          make: Makes the input; called in that process.

        Returns:
          How it ended, whether an interpreter ran, and what came of it.
        """
        shutil.rmtree(self._inside, ignore_errors=True)
        (self._inside / OUTPUT).mkdir(parents=True)
        self._reached[0] = 0
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _live(self._inside, kind, make, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            report = _await(pid, stream)
        if self._is_touched():
            report = _Report(Verdict.OUTSIDE, f"files beside the folder: {report.words}")
        return report.verdict, bool(self._reached[0]), report.words

    def _is_touched(self) -> bool:
        """Whether something stands beside the folder of the inputs that did not."""
        canary = self._folder / _CANARY
        names = {path.name for path in self._folder.iterdir()}
        return (
            names != {_CANARY, _INSIDE}
            or os.listdir(canary) != ["canary"]  # noqa: PTH208
            or (canary / "canary").read_bytes() != b"stays"
        )


def _load_all() -> None:
    """Imports what doors import when they are opened, once for all processes."""
    root = Path(matar_tf.__path__[0])
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        if not name.startswith(_NOT_LOADED):
            importlib.import_module(name.removesuffix(".__init__"))
    for name in _LOADED:
        importlib.import_module(name)


def _tell_when_reached(flag: mmap.mmap) -> None:
    """Lets interpreters and the simulator raise a flag when they run."""
    invoke = interpreter.Interpreter.invoke

    def telling_invoke(self: Any) -> None:
        flag[0] = 1
        invoke(self)

    interpreter.Interpreter.invoke = telling_invoke
    for name, computation in SIMULATED.items():

        def telling(site: Any, computation: Any = computation) -> Any:
            flag[0] = 1
            return computation(site)

        SIMULATED[name] = telling


def _await(pid: int, stream: Any) -> _Report:
    """Waits for a process; returns what it said, or how it died."""
    end = time.monotonic() + _PATIENCE
    content = b""
    while time.monotonic() < end:
        if not select.select([stream], [], [], max(end - time.monotonic(), 0))[0]:
            continue
        part = os.read(stream.fileno(), _MAX_REPORT)
        content += part
        if not part or len(content) > _MAX_REPORT:
            break
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return _Report(Verdict.HANG, f"{_PATIENCE:g} s by the clock")
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        verdict = Verdict.HANG if number == signal.SIGPROF else Verdict.DEATH
        return _Report(verdict, signal.Signals(number).name)
    try:
        document = json.loads(content)
        return _Report(Verdict(document["verdict"]), document["words"])
    except ValueError:
        return _Report(Verdict.DEATH, f"status {os.WEXITSTATUS(status)}")


def _live(
    folder: Path, kind: Callable[[str], Kind], make: Callable[[], Input], writer: int
) -> None:
    """The life of a process: makes an input, opens it, says what came of it, ends."""
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        try:
            given = make()
            given.place(folder)
            door = kind(given.kind).doors[given.door]
        except Exception:
            report = _Report(Verdict.TRACEBACK, f"making: {traceback.format_exc()}")
        else:
            report = _opened(given, lambda: door(folder), folder)
        report.words = report.words[-_MAX_REPORT // 8 :]
        document = {"verdict": report.verdict.value, "words": report.words}
        os.write(writer, json.dumps(document).encode())
    finally:
        os._exit(0)


def _opened(given: Input, door: Callable[[], str | None], folder: Path) -> _Report:
    """Opens an input under limits."""
    seen: list[str] = []
    _limit()
    _watch(folder, seen)
    try:
        content = door()
    except (MatarError, Refused) as error:
        report = _refusal(error)
    except Contradiction as error:
        report = _Report(Verdict.OTHER, str(error))
    except Unreadable as error:
        report = _Report(Verdict.UNREADABLE, repr(str(error)))
    except MemoryError:
        report = _Report(Verdict.MEMORY, traceback.format_exc())
    except BaseException:
        report = _Report(Verdict.TRACEBACK, traceback.format_exc())
    else:
        report = _acceptance(given, content)
    signal.setitimer(signal.ITIMER_PROF, 0)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    if spent.ru_utime + spent.ru_stime > _MAX_SECONDS:
        report = _Report(Verdict.HANG, f"in a process of its own: {report.words}")
    if seen:
        report = _Report(Verdict.OUTSIDE, f"{seen[:3]}: {report.words}")
    return report


def _refusal(error: Exception) -> _Report:
    """A sentence; but not one that only the limit of memory brought about."""
    sentence = str(error)
    causes = repr([sentence, *map(repr, _causes(error))])
    if any(words in causes for words in _OUT_OF_MEMORY):
        return _Report(Verdict.MEMORY, sentence)
    if not sentence.strip() or not is_readable(sentence):
        return _Report(Verdict.UNREADABLE, repr(sentence[:500]))
    return _Report(Verdict.REFUSED, sentence)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        error = error.__cause__ or error.__context__
        if error is not None:
            yield error


def _acceptance(given: Input, content: str | None) -> _Report:
    if given.must_be_refused:
        return _Report(Verdict.OTHER, "accepted, though it contradicts itself")
    if given.expected is not None and content != given.expected:
        return _Report(Verdict.OTHER, f"accepted as {_difference(given, content)}")
    return _Report(Verdict.ACCEPTED, "")


def _difference(given: Input, content: str | None) -> str:
    """Returns what differs, of contents that are JSON objects."""
    try:
        before, after = json.loads(given.expected or ""), json.loads(content or "")
        return str([key for key in before if before[key] != after.get(key)])
    except ValueError:
        return str(content)[:200]


def _limit() -> None:
    """From here on memory and processor time have limits, and a core leaves no file."""
    with Path("/proc/self/statm").open(encoding="ascii") as file:
        num_bytes = int(file.read().split()[0]) * resource.getpagesize()
    most = num_bytes + _MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, _MAX_SECONDS)


def _watch(folder: Path, seen: list[str]) -> None:
    """Notes what is written outside of a folder, and which programs are started."""
    inside = f"{folder.resolve()}{os.sep}"

    def is_inside(path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return True  # a handle that is open already
        # Links are followed up to the name itself, which may not exist yet.
        parent, name = os.path.split(os.path.abspath(os.fsdecode(path)))
        place = os.path.join(os.path.realpath(parent), name)
        return place.startswith(inside) or place.startswith(("/dev/null", "/dev/shm/"))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and not is_inside(path):
                seen.append(f"open {path}")
        elif event in _CHANGES:
            paths = arguments[:2] if event == "os.rename" else arguments[:1]
            if not all(map(is_inside, paths)):
                seen.append(f"{event} {paths}")
        elif event in _STARTS and arguments and sys.executable not in str(arguments):
            seen.append(f"{event} {str(arguments)[:200]}")

    sys.addaudithook(hook)
