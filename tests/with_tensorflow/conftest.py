"""What tests that need TensorFlow share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from matar_tf.keras._compat import tf


@pytest.fixture
def eager() -> Iterator[None]:
    """Lets functions run as they stand: to trace a step takes longer than a few steps.

    That a traced step is the same has a test of its own in `test_trainer`.
    """
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
