"""Reports: search results as tables and a page that people and programs read."""

from __future__ import annotations

from matar_tf.reporting.intervals import is_predicted
from matar_tf.reporting.matrix import (
    matrix_from_json,
    matrix_to_csv,
    matrix_to_json,
    matrix_to_markdown,
    matrix_to_text,
)
from matar_tf.reporting.page import Asked, to_html
from matar_tf.reporting.plots import front_svg
from matar_tf.reporting.tables import to_csv, to_json, to_markdown, to_text

__all__ = [
    "Asked",
    "front_svg",
    "is_predicted",
    "matrix_from_json",
    "matrix_to_csv",
    "matrix_to_json",
    "matrix_to_markdown",
    "matrix_to_text",
    "to_csv",
    "to_html",
    "to_json",
    "to_markdown",
    "to_text",
]
