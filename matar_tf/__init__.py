"""matar_tf: train one Keras network for many bit-widths, retarget it by search.

After MATAR (Mori et al., DATE 2024). A network developer trains and packages::

    model = matar_tf.quantize_model(float_model)  # needs TensorFlow
    model.fit(x, y, callbacks=[matar_tf.PolicyRandomizer(seed=0)])
    matar_tf.write_artifact(matar_tf.package(model), "net.matar")

and anyone retargets, without TensorFlow::

    net = matar_tf.load_artifact("net.matar")
    result = matar_tf.search(net, "mpic", (x, y), max_evaluations=300)
    matar_tf.export(net, result.front[0], "net.tflite")

Importing this package loads nothing heavy: names are imported when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NoReturn

__version__ = "0.1.0"

if TYPE_CHECKING:
    from matar_tf.api import cost as cost
    from matar_tf.api import estimate as estimate
    from matar_tf.api import evaluate as evaluate
    from matar_tf.api import export as export
    from matar_tf.api import inspect as inspect
    from matar_tf.api import load_artifact as load_artifact
    from matar_tf.api import model_card as model_card
    from matar_tf.api import report as report
    from matar_tf.api import retarget as retarget
    from matar_tf.api import search as search
    from matar_tf.artifact import write_artifact as write_artifact
    from matar_tf.card import ModelCard as ModelCard
    from matar_tf.data import Data as Data
    from matar_tf.errors import MatarError as MatarError
    from matar_tf.errors import MatarWarning as MatarWarning
    from matar_tf.keras import MatarQuantizeConfig as MatarQuantizeConfig
    from matar_tf.keras import MatarQuantizeScheme as MatarQuantizeScheme
    from matar_tf.keras import PolicyMetrics as PolicyMetrics
    from matar_tf.keras import PolicyRandomizer as PolicyRandomizer
    from matar_tf.keras import calibrate as calibrate
    from matar_tf.keras import from_keras3 as from_keras3
    from matar_tf.keras import get_policy as get_policy
    from matar_tf.keras import get_policy_space as get_policy_space
    from matar_tf.keras import load_model as load_model
    from matar_tf.keras import package as package
    from matar_tf.keras import policy_space as policy_space
    from matar_tf.keras import quantize_model as quantize_model
    from matar_tf.keras import reestimate_batch_norm as reestimate_batch_norm
    from matar_tf.keras import register_layer_kind as register_layer_kind
    from matar_tf.keras import set_policy as set_policy
    from matar_tf.keras import summary as summary
    from matar_tf.keras import to_keras3 as to_keras3
    from matar_tf.policy import Policy as Policy
    from matar_tf.run.measure import measure as measure
    from matar_tf.signing import sign_artifact as sign_artifact
    from matar_tf.space import PolicySpace as PolicySpace
    from matar_tf.targets import list_targets as list_targets
    from matar_tf.targets import load_target as load_target

# No name is that of a module of this package: which of the two it meant would depend on
# what was imported before.
_HOMES = {
    "Data": "data",
    "MatarError": "errors",
    "MatarWarning": "errors",
    "MatarQuantizeConfig": "keras",
    "MatarQuantizeScheme": "keras",
    "ModelCard": "card",
    "Policy": "policy",
    "PolicyMetrics": "keras",
    "PolicyRandomizer": "keras",
    "PolicySpace": "space",
    "calibrate": "keras",
    "cost": "api",
    "estimate": "api",
    "evaluate": "api",
    "export": "api",
    "from_keras3": "keras",
    "get_policy": "keras",
    "get_policy_space": "keras",
    "inspect": "api",
    "list_targets": "targets",
    "load_artifact": "api",
    "load_model": "keras",
    "load_target": "targets",
    "model_card": "api",
    "measure": "run.measure",
    "package": "keras",
    "policy_space": "keras",
    "quantize_model": "keras",
    "reestimate_batch_norm": "keras",
    "register_layer_kind": "keras",
    "report": "api",
    "retarget": "api",
    "search": "api",
    "set_policy": "keras",
    "sign_artifact": "signing",
    "summary": "keras",
    "to_keras3": "keras",
    "write_artifact": "artifact",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


class _Unavailable:
    """Stands for a name whose packages are missing; says so where it is used.

    An error where the name is read would break ``dir``, ``hasattr`` and completion.
    """

    def __init__(self, name: str, reason: str) -> None:
        self._name = name
        self._reason = reason

    def __repr__(self) -> str:
        return f"<matar_tf.{self._name} is not available: {self._reason}>"

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise ModuleNotFoundError(self._reason)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"matar_tf.{self._name} has no {name!r}: {self._reason}")

    def __mro_entries__(self, bases: tuple[object, ...]) -> NoReturn:
        raise ModuleNotFoundError(self._reason)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    home = _HOMES.get(name, name if name == "keras" else None)
    if home is None:
        raise AttributeError(f"module 'matar_tf' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"matar_tf.{home}")
    except ModuleNotFoundError as error:
        # `from matar_tf import keras` is to fail where it stands.
        if home != "keras" or name == "keras":
            raise
        return _Unavailable(name, str(error))
    value = globals()[name] = module if name == home else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
