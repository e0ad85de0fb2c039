"""Which sums of products are those of a dense layer, up to the order of axes."""

from __future__ import annotations

import string
from dataclasses import dataclass

__all__ = ["DenseForm", "dense_form"]


@dataclass(frozen=True, kw_only=True)
class DenseForm:
    """A sum of products as a dense layer between moved axes.

    Attributes:
      source: Order of the tensor's axes, those last that are summed over.
      kernel: Order of the kernel's axes, those first that are summed over.
      num_summed: Number of axes that are summed over.
      result: Order of the axes that the dense layer makes, the tensor's before the
        kernel's, which gives the result.
    """

    source: tuple[int, ...]
    kernel: tuple[int, ...]
    num_summed: int
    result: tuple[int, ...]


def dense_form(equation: str, rank: int) -> DenseForm | None:
    """Returns how a dense layer does what ``einsum`` does to a tensor and a kernel.

    Args:
      equation: ``"abc,cd->abd"``; an ellipsis stands for axes of the tensor.
      rank: Number of the tensor's axes, the first of which counts samples.

    Returns:
      None where no dense layer does: samples are mixed, an axis stays that the kernel
      has too, or one is summed over that it has not.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if not arrow or len(parts) != 2:
        return None
    free = (one for one in string.ascii_letters if one not in equation)
    num_hidden = rank - len(parts[0].replace("...", ""))
    hidden = "".join(next(free) for _ in range(num_hidden))
    x, kernel, y = (one.replace("...", hidden) for one in (*parts, right))
    is_plain = all(
        len(set(one)) == len(one) and one.isalpha() for one in (x, kernel, y)
    )
    if not is_plain or len(x) != rank or x[0] != y[0] or x[0] in kernel:
        return None
    summed = [one for one in x if one in kernel]
    kept = [one for one in x if one not in kernel]
    new = [one for one in y if one in kernel]
    if not summed or set(summed) & set(y) or {*kept, *new} != set(y):
        return None
    if {*summed, *new} != set(kernel):
        return None
    made = [*kept, *new]
    return DenseForm(
        source=tuple(x.index(one) for one in (*kept, *summed)),
        kernel=tuple(kernel.index(one) for one in (*summed, *new)),
        num_summed=len(summed),
        result=tuple(made.index(one) for one in y),
    )
