"""Standard output: what a command prints arrives there, or the command fails."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Final

__all__ = ["to_the_end"]

_BROKEN_PIPE: Final = 141  # 128 + SIGPIPE: what a shell says of programs that it ends


def to_the_end(work: Callable[[], int]) -> int:
    """Does what prints and returns an exit status; 0 stays 0 only if all was printed.

    Whoever stops reading (``| head -1``) ends it without a word.
    """
    if sys.stdout is None:
        _say("it is closed")
        return 1
    try:
        status = work()
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_rest()
        return _BROKEN_PIPE
    except OSError as error:
        _drop_rest()
        _say(error.strerror or str(error))
        return 1
    return status


def _say(reason: str) -> None:
    print(
        f"OSError: Expected to print to standard output, got: {reason}; let it lead to "
        "a terminal, a file on a disk with space, or /dev/null.",
        file=sys.stderr,
    )


def _drop_rest() -> None:
    """Lets what is printed yet go nowhere, so that Python's own end finds no error."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
