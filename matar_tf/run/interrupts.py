"""Ctrl-C while files are written: the first one waits, the second one does not."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

__all__ = ["Interrupts"]

_STDERR: Final = 2
_NOTICE: Final = (
    "\nCtrl-C: what is found so far is written, then this run ends. A second Ctrl-C "
    "stops at once; resuming goes on in any case.\n"
)


class Interrupts:
    """Holds back the first Ctrl-C of a ``with`` block and says that it came.

    The second raises KeyboardInterrupt wherever it comes. In another thread than the
    main one, or where Ctrl-C has a meaning of somebody else's, nothing changes.
    """

    def __init__(self) -> None:
        self._num_seen = 0
        self._passes = False
        self._is_ours = False

    @property
    def came(self) -> bool:
        """Whether there was one."""
        return self._num_seen > 0

    @property
    def may_finish(self) -> bool:
        """Whether there was one, and no second one that says not to wait."""
        return self._num_seen == 1

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """Lets the first one through, too, until it came or the block ends."""
        self._passes = True
        try:
            yield
        finally:
            self._passes = False

    def __enter__(self) -> Interrupts:
        self._is_ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._is_ours:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._num_seen += 1
        if self._num_seen == 1:
            # Not through sys.stderr, which may be in the middle of a line of its own.
            with contextlib.suppress(OSError):
                os.write(_STDERR, _NOTICE.encode())
        if self._num_seen > 1 or self._passes:
            raise KeyboardInterrupt
