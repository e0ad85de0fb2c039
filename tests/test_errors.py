"""Hints in error messages."""

from __future__ import annotations

import pytest

from matar_tf.errors import did_you_mean
from matar_tf.figures import COST_NAMES

FIGURES = (*COST_NAMES, "accuracy", "loss", "file_bytes")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ms", "latency_ms"),
        ("MS", "latency_ms"),
        ("pj", "energy_pj"),
        ("peak", "peak_activation_bytes"),
        ("BOPs", "bops"),
        ("MACs", "macs"),
        ("Accuracy", "accuracy"),
        ("latency", "latency_ms"),
        ("weights_bytes", "weight_bytes"),
        ("acuracy", "accuracy"),
    ],
)
def test_the_nearest_name_is_meant(name: str, meant: str) -> None:
    assert did_you_mean(name, FIGURES) == f"Did you mean {meant!r}?"


def test_of_several_holders_the_most_like_one_is_meant() -> None:
    assert did_you_mean("bytes", FIGURES) == "Did you mean 'file_bytes'?"


def test_a_part_is_whole() -> None:
    """The end of a word is no part of a name."""
    assert did_you_mean("ms", ("items_seen",)) == "Known: 'items_seen'."


def test_the_known_name_keeps_its_case() -> None:
    assert did_you_mean("KIB", ("B", "KiB", "MiB")) == "Did you mean 'KiB'?"


@pytest.mark.parametrize("name", ["", "_", "quality of service"])
def test_what_is_near_nothing_gets_the_list(name: str) -> None:
    assert did_you_mean(name, ("loss", "macs")) == "Known: 'loss', 'macs'."


def test_a_long_list_is_cut() -> None:
    assert did_you_mean("?", map(str, range(100, 125))).endswith("'119' and 5 more.")
