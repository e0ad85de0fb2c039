"""Reports: search results as tables that people and programs read."""

from __future__ import annotations

from matar_tf.report.tables import to_csv, to_json, to_markdown, to_text

__all__ = ["to_csv", "to_json", "to_markdown", "to_text"]
