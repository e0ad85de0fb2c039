"""Costs: a workload, a policy and a target in, cycles, bytes and energy out.

`CostModel` prices policies, `check_policy` names every limit that a policy breaks,
`legal_space` keeps the widths that a target can run, `legal_pairs` says which of them
may stand together.
"""

from __future__ import annotations

from matar_tf.pricing.constraints import (
    CONSTRAINTS,
    PolicyChecker,
    Violation,
    check_policy,
)
from matar_tf.pricing.legal_space import legal_pairs, legal_space
from matar_tf.pricing.model import CostModel, estimate

__all__ = [
    "CONSTRAINTS",
    "CostModel",
    "PolicyChecker",
    "Violation",
    "check_policy",
    "estimate",
    "legal_pairs",
    "legal_space",
]
