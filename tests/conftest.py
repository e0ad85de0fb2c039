"""What all tests share."""

from __future__ import annotations

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from pathlib import Path

import pytest
from fixtures.digits import write_digits


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifact net.matar and the digits data.npz; only read it."""
    folder = tmp_path_factory.mktemp("files")
    write_digits(folder)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files of slow tests first: none is begun when others have ended."""
    slow = {
        item.path
        for item in items
        if item.get_closest_marker("slow") or "with_tensorflow" in item.path.parts
    }
    items.sort(key=lambda item: item.path not in slow)
