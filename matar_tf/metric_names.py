"""What the name of a metric says: which are shares of samples, and top-K accuracies."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_share", "top_k_of"]

_TOP_K: Final = re.compile(r"top_([1-9]\d*)_accuracy")


def top_k_of(name: str) -> int | None:
    """Returns the K of ``top_K_accuracy``, None for any other name."""
    match = _TOP_K.fullmatch(name)
    return int(match[1]) if match else None


def is_share(name: str) -> bool:
    """Returns whether a metric is the share of samples that were classified rightly."""
    return name == "accuracy" or top_k_of(name) is not None
