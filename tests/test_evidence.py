"""What parts of samples say of policies beside the widest one."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.noisy_samples import drawn

from matar_tf.errors import DataError
from matar_tf.evidence import Evidence


def test_pairs_by_hand() -> None:
    policies = drawn(2, 0)
    parts = np.array([[0.9, 0.7], [0.7, 0.6], [0.8, 0.5]])
    evidence = Evidence.of_parts(policies, {"accuracy": parts}, 30)
    pairs = evidence.metrics["accuracy"]
    assert evidence.policies == policies
    # Differences -0.2, -0.1 and -0.3: their deviation is 0.1, that of the mean less.
    assert pairs.differences == pytest.approx([0.0, -0.2])
    assert pairs.errors == pytest.approx([0.0, 0.1 / np.sqrt(3)])
    assert pairs.level == pytest.approx(0.8)
    assert pairs.level_error == pytest.approx(0.1 / np.sqrt(3))


def test_what_all_policies_share_is_no_error_of_a_pair() -> None:
    rng = np.random.default_rng(0)
    luck = rng.normal(0.0, 1.0, (8, 1))
    parts = luck + np.array([[0.0, 0.25]])
    pairs = Evidence.of_parts(drawn(2, 0), {"loss": parts}, 80).metrics["loss"]
    assert pairs.errors == pytest.approx([0.0, 0.0], abs=1e-12)
    assert pairs.level_error > 0.1


def test_one_part_tells_no_errors() -> None:
    with pytest.raises(DataError, match=r"two or more parts .* got 1; add samples"):
        Evidence.of_parts(drawn(2, 0), {"loss": np.zeros((1, 2))}, 1)


def test_parts_count_by_their_samples() -> None:
    """Of five samples the first part has three, the second two."""
    parts = np.array([[1.0, 2 / 3], [0.5, 0.5]])
    pairs = Evidence.of_parts(drawn(2, 0), {"accuracy": parts}, 5).metrics["accuracy"]
    assert pairs.level == pytest.approx(4 / 5)
    assert pairs.differences == pytest.approx([0.0, 3 / 5 - 4 / 5])
