"""Limits of a child process, which the operating system enforces."""

from __future__ import annotations

import math
import resource
import time
from pathlib import Path

__all__ = ["limit_memory", "limit_time"]


def limit_memory(num_bytes: int) -> None:
    """Lets this process have so many bytes more than it has, and leave no core file."""
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere addresses are no measure of memory
        pages = int(statm.read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + num_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_time(seconds: float) -> None:
    """Lets this process run so much longer, to the next full second.

    It is ended by ``SIGXCPU``; the limit can be moved by another call.

    Args:
      seconds: Of processor time.
    """
    limit = math.ceil(time.process_time() + seconds)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
