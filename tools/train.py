"""Trains a recipe, float then multi-bitwidth, and packages the artifact.

Stopped and started again with the same flags, it goes on where it was.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.common import (
    check_flags_only,
    command_line,
    float_network,
    read_policy,
    reports_errors,
    run,
    training_data,
)

_RECIPE = flags.DEFINE_string(
    "recipe",
    None,
    "Name of a recipe, with variants: digits_resnet8[:quick][:scratch][:bfloat16].",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Artifact to write: a directory or a .matar file."
)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "'digits', a path.npz, or package.module:function; default the recipe's.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything random.", lower_bound=0)
_FLOAT = flags.DEFINE_string(
    "float", None, "A trained float network (.h5) to start from; default: train one."
)
_SAVE_FLOAT = flags.DEFINE_string(
    "save_float",
    None,
    "Where to save the float network, a path.h5; replaced with --overwrite only.",
)
_POLICY = flags.DEFINE_string(
    "policy",
    None,
    "Train for one policy only: the name of a uniform one (w4a8), or a policy's .json.",
)
_REUSE = flags.DEFINE_bool("reuse", False, "Do nothing if --output is an artifact.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace what stands at --output.")
flags.mark_flags_as_required(["recipe", "output"])


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Trains; prints the accuracy of the float network and of uniform policies."""
    check_flags_only(argv)
    from matar_tf.artifact import check_free, read_artifact, write_artifact
    from matar_tf.errors import MatarError
    from matar_tf.run.settings import now
    from recipes.common import load_recipe

    config = load_recipe(_RECIPE.value)
    output = Path(_OUTPUT.value)
    if _REUSE.value and _OVERWRITE.value:
        raise MatarError("Expected --reuse or --overwrite, got both; choose one.")
    if _REUSE.value and output.exists():
        read_artifact(output)
        print(f"Reusing the artifact in {output}; --overwrite instead trains again.")
        return 0
    check_free(output, overwrite=_OVERWRITE.value)
    if _SAVE_FLOAT.value:
        _check_new_file(Path(_SAVE_FLOAT.value), overwrite=_OVERWRITE.value)
    data = training_data(config, _DATA.value)

    from matar_tf import keras

    folder = output.parent / f".{output.name}.training-{_SEED.value}"
    network = float_network(
        _FLOAT.value, config, data, seed=_SEED.value, folder=folder / "float"
    )
    if _SAVE_FLOAT.value:
        _save(network, Path(_SAVE_FLOAT.value))
    space = keras.policy_space(network)
    if _POLICY.value:
        space = space.only(read_policy(_POLICY.value, space))
    accuracy: dict[str, dict[str, float]] = {}
    if config.float_schedule is not None:
        accuracy["float"] = network.evaluate(
            data.x_test, data.y_test, batch_size=256, verbose=0, return_dict=True
        )
    quantized = keras.train_multi_bit(
        network,
        data,
        config.multi_bit_schedule,
        config.method,
        space=space,
        seed=_SEED.value,
        folder=folder / "multi_bit",
    )
    if _POLICY.value:
        accuracy[Path(_POLICY.value).stem] = quantized.evaluate(
            data.x_test, data.y_test, batch_size=256, verbose=0, return_dict=True
        )
    else:
        accuracy |= keras.evaluate_policies(
            quantized, data.x_test, data.y_test, config.evaluate_policies
        )
    provenance = {
        "recipe": config.name,
        "data": data.name,
        "data_digest": data.digest(),
        "num_samples": len(data.x_test),
        "seed": _SEED.value,
        "command": command_line(),
        "created": now(),
        "versions": keras.versions(),
    }
    artifact = keras.package(quantized, accuracy=accuracy, provenance=provenance)
    write_artifact(artifact, output, overwrite=_OVERWRITE.value)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"\nWrote {output}. Accuracy on {len(data.x_test)} samples of {data.name}:")
    for name, row in accuracy.items():
        print(f"  {name:6s} {row['accuracy']:.2%}")
    return 0


def _check_new_file(path: Path, *, overwrite: bool) -> None:
    """Checks that a network may be saved at a path, before hours are spent on it."""
    from matar_tf.errors import ModelError

    if path.suffix != ".h5" or not path.parent.is_dir() or path.is_dir():
        raise ModelError(
            f"Expected a path.h5 in a folder that is there as --save_float, got {path}."
        )
    if path.exists() and not overwrite:
        raise ModelError(
            f"Expected a free path as --save_float, but {path} exists; choose another "
            "or pass --overwrite."
        )


def _save(network: Any, path: Path) -> None:
    """Saves a network; the file is there when it is complete."""
    from matar_tf.io.files import write_atomically

    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / path.name
        network.save(temporary)
        write_atomically(path, temporary.read_bytes())


if __name__ == "__main__":
    run(main)
