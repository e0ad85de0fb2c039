"""Processes that open inputs: under limits, with eyes on where they write."""

from __future__ import annotations

import contextlib
import faulthandler
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
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ai_edge_litert import interpreter

import matar_tf
from matar_tf.errors import MatarError
from matar_tf.tflite.simulator import SIMULATED
from tools.fuzzing.inputs import (
    OUTPUT,
    ContradictionError,
    Input,
    RefusedError,
    Verdict,
)
from tools.fuzzing.kinds import KINDS
from tools.fuzzing.programs import UnreadableError, is_readable

__all__ = ["Nursery", "Report"]

_MAX_BYTES: Final = 1 << 30  # beside what the process has before it opens anything
_MAX_SECONDS: Final = 5.0  # of processor time, of a process
_PATIENCE: Final = 120.0  # seconds by the clock; the machine may be busy
_MAX_WORDS: Final = 8_000
_NUM_TOGETHER: Final = 20  # inputs of a process, unless one of them ends it
_OUT_OF_MEMORY: Final = ("MemoryError", "Unable to allocate", "bad_alloc", "of memory")
_NOT_LOADED: Final = ("matar_tf.keras", "matar_tf.tflite.ray", "matar_tf.__main__")
_LOADED: Final = ("sklearn.datasets", "matplotlib.pyplot", "numpy.lib.format")
_CANARY, _INSIDE = "outside", "inside"
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES: Final = ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.symlink")
_STARTS: Final = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")


@dataclass(frozen=True, kw_only=True)
class Report:
    """How the opening of an input ended.

    Attributes:
      verdict: How.
      reached: Whether an interpreter or the simulator ran.
      words: What was said.
    """

    verdict: Verdict
    reached: bool
    words: str


class Nursery:
    """Processes that open inputs one after the other, each in an empty folder.

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

    def open_all(
        self, indices: Iterable[int], make: Callable[[int], Input]
    ) -> Iterator[tuple[int, Report]]:
        """Opens inputs one after the other, in processes of a few.

        Args:
          indices: Numbers of inputs.
          make: Returns the input of a number; called in those processes.

        Yields:
          Each number, and how it ended.
        """
        waiting = deque(indices)
        while waiting:
            some = [waiting.popleft() for _ in range(min(len(waiting), _NUM_TOGETHER))]
            done = 0
            for report in self._reports(some, make):
                yield some[done], report
                done += 1
            waiting.extendleft(reversed(some[done:]))

    def _reports(
        self, indices: Sequence[int], make: Callable[[int], Input]
    ) -> Iterator[Report]:
        """Yields how inputs ended, up to the first that the process did not outlive."""
        shutil.rmtree(self._inside, ignore_errors=True)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            self._live(indices, make, writer)
        os.close(writer)
        with os.fdopen(reader, "rb", buffering=0) as stream:
            lines = _lines(stream)
            for _ in indices:
                try:
                    line = next(lines, None)
                except TimeoutError:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    yield self._report(Verdict.HANG, f"{_PATIENCE:g} s by the clock")
                    return
                if line is None:
                    yield self._report(*_death(os.waitpid(pid, 0)[1]))
                    return
                verdict, words = json.loads(line)
                yield self._report(Verdict(verdict), words)
        os.waitpid(pid, 0)

    def _report(self, verdict: Verdict, words: str) -> Report:
        return Report(verdict=verdict, reached=bool(self._reached[0]), words=words)

    def _live(
        self, indices: Sequence[int], make: Callable[[int], Input], writer: int
    ) -> None:
        """The life of a process: opens inputs, says what came of each, ends."""
        try:
            os.setpgid(0, 0)
            faulthandler.disable()  # whose output would be taken for that of a parent
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            watch = _Watch(self._inside)
            for index in indices:
                shutil.rmtree(self._inside, ignore_errors=True)
                (self._inside / OUTPUT).mkdir(parents=True)
                os.chdir(self._inside)
                self._reached[0] = 0
                given = make(index)
                verdict, words = _opened(given, self._inside, watch)
                if verdict is Verdict.ACCEPTED and given.door in KINDS[given.kind].runs:
                    self._reached[0] = 1
                if self._is_touched():
                    verdict, words = Verdict.OUTSIDE, f"files beside: {words}"
                line = json.dumps([verdict.value, words[-_MAX_WORDS:]]) + "\n"
                os.write(writer, line.encode())
        finally:
            os._exit(0)

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


def _lines(stream: Any) -> Iterator[bytes]:
    """Yields the lines that a process writes, as it does.

    Raises:
      TimeoutError: If none comes for too long.
    """
    content = b""
    while True:
        if not select.select([stream], [], [], _PATIENCE)[0]:
            raise TimeoutError
        part = os.read(stream.fileno(), 1 << 16)
        if not part:
            return
        *lines, content = (content + part).split(b"\n")
        yield from lines


def _death(status: int) -> tuple[Verdict, str]:
    """Returns how a process died that said nothing."""
    if not os.WIFSIGNALED(status):
        return Verdict.DEATH, f"status {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    verdict = Verdict.HANG if number == signal.SIGPROF else Verdict.DEATH
    return verdict, signal.Signals(number).name


def _opened(given: Input, folder: Path, watch: _Watch) -> tuple[Verdict, str]:
    """Opens an input under limits."""
    given.place(folder)
    door = KINDS[given.kind].doors[given.door]
    before = _seconds_of_children()
    with watch, _limits():
        verdict, words = _verdict(given, lambda: door(folder))
    # Of each: to time the operators of a file takes a process for every one.
    if _seconds_of_children() - before > _MAX_SECONDS * max(watch.num_started, 1):
        verdict, words = Verdict.HANG, f"in a process of its own: {words}"
    if watch.seen:
        verdict, words = Verdict.OUTSIDE, f"{watch.seen[:3]}: {words}"
    return verdict, words


def _verdict(given: Input, door: Callable[[], str | None]) -> tuple[Verdict, str]:
    """Opens an input; returns how that ended, and what was said."""
    try:
        content = door()
    except (MatarError, RefusedError) as error:
        return _refusal(error)
    except ContradictionError as error:
        return Verdict.OTHER, str(error)
    except UnreadableError as error:
        return Verdict.UNREADABLE, repr(str(error))
    except MemoryError:
        return Verdict.MEMORY, traceback.format_exc()
    except BaseException:  # noqa: BLE001 - whatever it is, it is counted
        return Verdict.TRACEBACK, traceback.format_exc()
    if given.must_be_refused:
        return Verdict.OTHER, "accepted, though it contradicts itself"
    if given.expected is not None and content != given.expected:
        return Verdict.OTHER, f"accepted with other {_difference(given, content)}"
    return Verdict.ACCEPTED, ""


def _refusal(error: Exception) -> tuple[Verdict, str]:
    """A sentence; but not one that only the limit of memory brought about."""
    sentence = str(error)
    causes = repr([sentence, *map(repr, _causes(error))])
    if any(words in causes for words in _OUT_OF_MEMORY):
        return Verdict.MEMORY, sentence
    if not sentence.strip() or not is_readable(sentence):
        return Verdict.UNREADABLE, repr(sentence[:500])
    return Verdict.REFUSED, sentence


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        error = error.__cause__ or error.__context__
        if error is not None:
            yield error


def _difference(given: Input, content: str | None) -> str:
    """Returns what differs: which keys, where contents are JSON objects."""
    if content is None or not content.startswith("{"):
        return f"content: {str(content)[:200]}"
    before, after = json.loads(given.expected or "{}"), json.loads(content)
    return str([key for key in before if before[key] != after.get(key)])


def _seconds_of_children() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Limits memory and processor time."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + _MAX_BYTES
    former = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, former[1]))
    signal.setitimer(signal.ITIMER_PROF, _MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, former)


class _Watch:
    """Notes what is written outside of a folder, and which programs are started.

    Attributes:
      seen: What was, since it was last entered.
      num_started: Processes of our own program, since then.
    """

    def __init__(self, folder: Path) -> None:
        self.seen: list[str] = []
        self.num_started = 0
        self._inside = f"{folder.resolve()}{os.sep}"
        self._looks = False
        sys.addaudithook(self._hook)

    def __enter__(self) -> None:
        self.seen.clear()
        self.num_started = 0
        self._looks = True

    def __exit__(self, *_: object) -> None:
        self._looks = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._looks:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and not self._holds(path):
                self.seen.append(f"open {path}")
        elif event in _CHANGES:
            paths = arguments[:2] if event == "os.rename" else arguments[:1]
            if not all(map(self._holds, paths)):
                self.seen.append(f"{event} {paths}")
        elif event in _STARTS and arguments:
            if sys.executable not in str(arguments):
                self.seen.append(f"{event} {str(arguments)[:200]}")
            elif event == "subprocess.Popen":
                self.num_started += 1

    def _holds(self, path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return True  # a handle that is open already
        # Links are followed up to the name itself, which may not exist yet.
        parent, name = os.path.split(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100
        place = os.path.join(os.path.realpath(parent), name)  # noqa: PTH118
        return place.startswith((self._inside, "/dev/null", "/dev/shm/"))
