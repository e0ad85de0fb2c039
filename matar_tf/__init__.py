"""matar_tf: train one Keras network for many bit-widths, retarget it by search.

After MATAR (Mori et al., DATE 2024). Three parts, one direction:

keras/        quantizers, configs, callbacks, packaging; the only part with TensorFlow
policy        policies and policy spaces
samplers      drawing policies at random
workload      what a network asks of hardware
parameters    trained numbers of a network
artifact      the distributable: read, write, verify
targets/      hardware as data
cost          workload + policy + target -> cycles, energy, bytes
search/       NSGA-II over policies
results       what a search found
report/       results as tables
tflite/       ``.tflite`` files for policies, and running them; no TensorFlow
backends      costs by a target's own tool, or by its model
retarget      all of it: an artifact and targets in, fronts and files out

Importing this package loads nothing heavy: the names below are imported when used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matar_tf.artifact import read_artifact as read_artifact
    from matar_tf.artifact import write_artifact as write_artifact
    from matar_tf.errors import MatarError as MatarError
    from matar_tf.keras import MatarQuantizeConfig as MatarQuantizeConfig
    from matar_tf.keras import MatarQuantizeScheme as MatarQuantizeScheme
    from matar_tf.keras import PolicyMetrics as PolicyMetrics
    from matar_tf.keras import PolicyRandomizer as PolicyRandomizer
    from matar_tf.keras import calibrate as calibrate
    from matar_tf.keras import get_policy as get_policy
    from matar_tf.keras import get_policy_space as get_policy_space
    from matar_tf.keras import load_model as load_model
    from matar_tf.keras import package as package
    from matar_tf.keras import policy_space as policy_space
    from matar_tf.keras import quantize_model as quantize_model
    from matar_tf.keras import reestimate_batch_norm as reestimate_batch_norm
    from matar_tf.keras import set_policy as set_policy
    from matar_tf.policy import Policy as Policy
    from matar_tf.pricing.model import estimate as estimate
    from matar_tf.run.retarget import retarget as retarget
    from matar_tf.space import PolicySpace as PolicySpace
    from matar_tf.targets import load_target as load_target

_HOMES = {
    "MatarError": "errors",
    "MatarQuantizeConfig": "keras",
    "MatarQuantizeScheme": "keras",
    "Policy": "policy",
    "PolicyMetrics": "keras",
    "PolicyRandomizer": "keras",
    "PolicySpace": "space",
    "calibrate": "keras",
    "estimate": "cost",
    "get_policy": "keras",
    "get_policy_space": "keras",
    "load_model": "keras",
    "load_target": "targets",
    "package": "keras",
    "policy_space": "keras",
    "quantize_model": "keras",
    "read_artifact": "artifact",
    "reestimate_batch_norm": "keras",
    "retarget": "retarget",
    "set_policy": "keras",
    "write_artifact": "artifact",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'matar_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(f"matar_tf.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
