"""The variables of a layer, by name."""

from __future__ import annotations

from typing import Any

from matar_tf.keras.quantizers.configs import variable_name

__all__ = ["variables_by_name"]


def variables_by_name(layer: Any) -> dict[str, Any]:
    """Returns the variables of a layer by their names inside it.

    Those of layers inside it by the ends of their paths: ``query/kernel``.
    """
    names = [variable_name(one) for one in layer.weights]
    if len(set(names)) < len(names):
        names = [
            "/".join(one.name.split(":")[0].split("/")[-2:]) for one in layer.weights
        ]
    return dict(zip(names, layer.weights, strict=True))
