"""Trains a recipe, float then multi-bitwidth, and packages the artifact.

Policies are measured at the end, on training samples that were held out, so that others
can search the artifact without data. None are held out where a float network is given,
which may have seen them all: then training samples are measured, and the accuracy table
sets the scale.

Stopped and started again with the same flags, it goes on where it was.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from absl import flags

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given
from matar_tf.commands._common import only_policy, open_artifact
from matar_tf.commands._training import (
    float_network,
    load_recipe,
    split_training,
    training_data,
    with_measurements,
)

if TYPE_CHECKING:
    from absl.flags import FlagValues

    from matar_tf.artifact import Artifact
    from matar_tf.data import Data
    from matar_tf.keras import RecipeConfig

__all__ = ["COMMAND"]


def _define(values: FlagValues) -> None:
    _flags.recipe(values)
    _flags.output(values, "Artifact to write: a directory or a .matar file.")
    _flags.overwrite(values)
    flags.DEFINE_bool(
        "reuse", False, "Do nothing if --output is an artifact.", flag_values=values
    )
    _flags.data(
        values,
        "Samples and labels to train and to measure on",
        otherwise="; default the recipe's",
    )
    _flags.num_samples(values)
    _flags.seed(values, "everything random")
    _flags.float_network(values)
    flags.DEFINE_string(
        "save_float",
        None,
        "Where to save the float network, a path.h5; replaced with --overwrite only.",
        flag_values=values,
    )
    _flags.policies(values, None, "The one policy to train for, the default being all")
    _flags.measure(values, "after training; 0: none; default the recipe's")
    flags.DEFINE_integer(
        "held_out",
        None,
        "Training samples, a fifth at most, that are kept out of training to measure "
        "on; default the recipe's, or none with --float, whose network must not have "
        "seen them.",
        lower_bound=0,
        flag_values=values,
    )
    _flags.jobs(values)


def _run(given: Given) -> int:
    """Trains; prints the accuracy of the float network and of uniform policies."""
    from matar_tf.artifact import check_free, write_artifact
    from matar_tf.errors import MatarError
    from matar_tf.run.settings import now

    only = only_policy(given)
    config = load_recipe(given.recipe)
    output = Path(given.output)
    if given.reuse and given.overwrite:
        raise MatarError("Expected --reuse or --overwrite, got both; choose one.")
    if given.reuse and output.exists():
        open_artifact(output)
        print(f"Reusing the artifact in {output}; --overwrite instead trains again.")
        return 0
    check_free(output, overwrite=given.overwrite)
    if given.save_float:
        _check_new_file(Path(given.save_float), overwrite=given.overwrite)
    number = config.measured_policies if given.measure is None else given.measure
    data, held = _data(given, config, number)

    from matar_tf import keras

    folder = output.parent / f".{output.name}.training-{given.seed}"
    network = float_network(
        given.float, config, data, seed=given.seed, folder=folder / "float"
    )
    if given.save_float:
        _save(network, Path(given.save_float))
    space = keras.policy_space(network, configs=config.configs, scale=config.scale)
    if only is not None:
        space = space.only(space.policy(only))
    accuracy: dict[str, dict[str, float]] = {}
    if config.float_schedule is not None:
        accuracy["float"] = _measured(network, data)
    quantized = keras.train_multi_bit(
        network,
        data,
        config.multi_bit_schedule,
        config.method,
        space=space,
        configs=config.configs,
        signed_inputs=config.signed_inputs,
        seed=given.seed,
        folder=folder / "multi_bit",
    )
    if only is not None:
        accuracy[Path(only).stem] = _measured(quantized, data)
    else:
        accuracy |= keras.evaluate_policies(
            quantized, data.x_test, data.y_test, config.evaluate_policies
        )
    provenance = {
        "recipe": config.name,
        "data": data.name,
        "data_digest": data.digest(),
        "num_samples": data.num_samples,
        "held_out": 0 if held is None else held.num_samples,
        "seed": given.seed,
        "command": given.command,
        "created": now(),
    }
    artifact = keras.package(
        quantized,
        accuracy=accuracy,
        provenance=provenance,
        samples=data.x_train,
        channels=config.channels,
        card=config.card,
    )
    artifact = with_measurements(
        *(artifact, data, held, number),
        seed=given.seed,
        jobs=given.jobs,
        store=folder / "measured.sqlite",
    )
    digest = write_artifact(artifact, output, overwrite=given.overwrite)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"\nWrote {output}, sha256:{digest}.")
    _print_figures(artifact, data)
    return 0


def _data(given: Given, config: RecipeConfig, number: int) -> tuple[Data, Data | None]:
    """Returns what is trained on, and training samples held out to measure on.

    Args:
      given: The flags.
      config: The recipe.
      number: How many policies are to be measured.

    Raises:
      MatarError: If there are no such data, or too many policies.
    """
    from matar_tf.run.measure import check_num_policies

    if number:
        check_num_policies(number)
    data = training_data(config, given.data)
    if given.num_samples is not None:
        data = data.head(given.num_samples)
    # A float network from elsewhere may have seen all samples.
    default = config.held_out if given.float is None and number else 0
    return split_training(data, default if given.held_out is None else given.held_out)


def _print_figures(artifact: Artifact, data: Data) -> None:
    """Prints what is known of an artifact's accuracy."""
    print(f"Accuracy on {data.num_samples} samples of {data.name}:")
    for name, row in artifact.accuracy.items():
        print(f"  {name:6s} {row['accuracy']:.2%}")
    if artifact.measurements is not None:
        print(f"{artifact.measurements}.")


def _measured(network: Any, data: Data) -> dict[str, float]:
    """Returns the metrics of a Keras network on evaluation samples."""
    return network.evaluate(
        data.x_test, data.y_test, batch_size=256, verbose=0, return_dict=True
    )


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


COMMAND: Final = Command(
    text=__doc__,
    define=_define,
    run=_run,
    subject="recipe",
    required=("recipe", "output"),
)
