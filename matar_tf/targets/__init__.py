"""Targets: hardware as data, with each of its limits as a named function.

A target is a TOML file that a hardware person can edit; nothing in it is executed.
`load_target` reads one strictly, `check_policy` names every limit that a policy
breaks, `legal_space` keeps the widths that a target can run, `legal_pairs` says which
of them may stand together.
"""

from __future__ import annotations

from matar_tf.targets._compute import TableCompute
from matar_tf.targets._constraints import (
    CONSTRAINTS,
    PolicyChecker,
    Violation,
    check_policy,
)
from matar_tf.targets._fields import MULTIPLY_KINDS
from matar_tf.targets._legal_space import legal_pairs, legal_space
from matar_tf.targets._loader import list_targets, load_target
from matar_tf.targets._page import describe_catalogue, describe_target
from matar_tf.targets._schema import target_json_schema
from matar_tf.targets._sections import LitertBackend, VelaBackend
from matar_tf.targets._target import Target

__all__ = [
    "CONSTRAINTS",
    "MULTIPLY_KINDS",
    "LitertBackend",
    "PolicyChecker",
    "TableCompute",
    "Target",
    "VelaBackend",
    "Violation",
    "check_policy",
    "describe_catalogue",
    "describe_target",
    "legal_pairs",
    "legal_space",
    "list_targets",
    "load_target",
    "target_json_schema",
]
