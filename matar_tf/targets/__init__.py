"""Targets: hardware as data.

A target is a TOML file that a hardware person can edit; nothing in it is executed.
`load_target` reads one strictly; `matar_tf.pricing` says what it takes and costs.
"""

from __future__ import annotations

from matar_tf.targets.compute import TableCompute
from matar_tf.targets.fields import MULTIPLY_KINDS
from matar_tf.targets.loader import (
    list_targets,
    load_target,
    target_json_schema,
)
from matar_tf.targets.sections import LitertBackend, VelaBackend
from matar_tf.targets.target import Target

__all__ = [
    "MULTIPLY_KINDS",
    "LitertBackend",
    "TableCompute",
    "Target",
    "VelaBackend",
    "list_targets",
    "load_target",
    "target_json_schema",
]
