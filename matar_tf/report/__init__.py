"""Reports: search results as tables that people and programs read."""

from __future__ import annotations

from matar_tf.report.matrix import matrix_to_csv, matrix_to_json, matrix_to_markdown
from matar_tf.report.tables import to_csv, to_json, to_markdown, to_text

__all__ = [
    "matrix_to_csv",
    "matrix_to_json",
    "matrix_to_markdown",
    "to_csv",
    "to_json",
    "to_markdown",
    "to_text",
]
