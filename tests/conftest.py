"""What all tests share."""

from __future__ import annotations

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
from absl import flags


@pytest.fixture(autouse=True)
def _parsed_flags() -> None:
    """Lets programs be called through `main` without a command line."""
    flags.FLAGS.mark_as_parsed()
