"""The sub-commands of ``matar``: a module for each, imported when it is called.

Such a module imports nothing heavy before it runs, so that its help is there at once.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

__all__ = ["COMMANDS"]

COMMANDS: Final = MappingProxyType(
    {
        "train": "train a recipe and package the artifact (needs TensorFlow)",
        "package": "package a trained Keras model as an artifact (needs TensorFlow)",
        "measure": "measure policies of an artifact, so that others need no data",
        "search": "search policies of an artifact for targets, and export them",
        "export": "export one policy of an artifact as a .tflite file",
        "evaluate": "run a .tflite file: accuracy, size, latency",
        "cost": "price policies of an artifact on targets",
        "report": "print the tables, the page or a plot of a search",
        "inspect": "print what is in an exported .tflite file",
        "compare": "compare a shared network with networks for one policy each",
        "targets": "list, show and check descriptions of hardware",
        "verify": "check an artifact, or that a .tflite file is what one makes",
    }
)
