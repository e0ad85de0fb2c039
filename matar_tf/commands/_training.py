"""What training starts from: a recipe, its data, a float network."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matar_tf.errors import DataError, MatarError

if TYPE_CHECKING:
    from matar_tf.artifact import Artifact
    from matar_tf.data import Data
    from matar_tf.keras import RecipeConfig

__all__ = [
    "float_network",
    "load_recipe",
    "split_training",
    "training_data",
    "with_measurements",
]

_MOST_HELD_OUT: Final = 5  # that part of the training samples
_MOST_MEASURED: Final = 2000  # samples that were trained on


def load_recipe(spec: str) -> RecipeConfig:
    """Returns a recipe, ``name`` or ``path/to/recipe.py``, with ``:variant`` after it.

    Names are those of the folder ``recipes/`` of the project's source, which can be
    imported where that is the present folder. A file is executed.

    Raises:
      MatarError: If there is no such recipe or variant, or no config comes of it.
      ModuleNotFoundError: If there is no TensorFlow.
    """
    from matar_tf.keras import with_variants

    match = re.fullmatch(r"(.*\.py)((?::\w*)*)", spec)
    if match is not None:
        return with_variants(_config_of(Path(match[1])), match[2].split(":")[1:])
    try:
        common = importlib.import_module("recipes.common")
    except ModuleNotFoundError as error:
        if error.name not in ("recipes", "recipes.common"):
            raise
        raise MatarError(
            f"Expected the folder recipes/ of the project's source here, for the "
            f"recipe {spec!r}, found none, and none is installed; start in the "
            "source's folder, or name the path of a recipe's file (my_recipe.py)."
        ) from error
    return common.load_recipe(spec)


def _config_of(path: Path) -> RecipeConfig:
    """Returns what the function ``get_config`` of a file returns.

    Raises:
      MatarError: If there is no such file or function, or it returns something else.
    """
    from matar_tf.keras import RecipeConfig

    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise MatarError(f"Expected the file of a recipe at {path}, found nothing.")
    # As for a script, what lies beside it can be imported; of a package, all of it.
    root = path.resolve().parent
    while (root / "__init__.py").is_file():
        root = root.parent
    if str(root) not in sys.path:
        sys.path.append(str(root))
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except (ImportError, AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise MatarError(
            f"Expected a recipe with a function get_config in {path}, but: {error}."
        ) from error
    if not isinstance(config, RecipeConfig):
        raise MatarError(
            f"Expected a matar_tf.keras.RecipeConfig from get_config of {path}, got "
            f"{type(config).__name__}."
        )
    return config


def training_data(config: RecipeConfig, spec: str | None) -> Data:
    """Returns the data of ``--data``, or without it those of a recipe.

    Raises:
      DataError: If neither says which, they cannot be read, or have no training set.
    """
    from matar_tf.data import load_data

    source = spec or config.data
    if source is None:
        raise DataError(
            f"Expected --data for the recipe {config.name!r}: the path of an .npz file "
            "with x_train, y_train, x_test and y_test."
        )
    data = load_data(source)
    data.training()
    return data


def split_training(data: Data, number: int) -> tuple[Data, Data | None]:
    """Returns data with fewer training samples, and those that are held out, if any.

    The same ones whatever the seed of a training is, so that none of a float network
    from an earlier one has seen them.

    Args:
      data: With training samples.
      number: How many to hold out; a fifth of them at most is.
    """
    import numpy as np

    from matar_tf.data import Data
    from matar_tf.named_arrays import num_rows, rows

    x, y = data.training()
    number = min(number, num_rows(x) // _MOST_HELD_OUT)
    if number < 2:
        return data, None
    order = np.random.default_rng(0).permutation(num_rows(x))
    held, kept = np.sort(order[:number]), np.sort(order[number:])
    name = f"{data.name}, held out of training"
    return (
        replace(data, x_train=rows(x, kept), y_train=rows(y, kept)),
        Data(name=name, x_test=rows(x, held), y_test=rows(y, held)),
    )


def with_measurements(
    artifact: Artifact,
    data: Data,
    held: Data | None,
    number: int,
    *,
    seed: int,
    jobs: int,
    store: Path,
) -> Artifact:
    """Returns an artifact with policies measured, if there is a choice of some.

    Args:
      artifact: The packaged network.
      data: What it was trained on.
      held: Samples that it was not trained on, or None for some of `data`.
      number: Of policies; 0 for none.
      seed: Of their choice.
      jobs: Processes that measure.
      store: What keeps figures if this is interrupted.
    """
    import numpy as np

    from matar_tf.data import Data
    from matar_tf.named_arrays import num_rows, rows
    from matar_tf.run.measure import LEAST_POLICIES, measure

    uniform = set(artifact.space.uniform_names()) & set(artifact.accuracy)
    too_few = artifact.space.num_policies < LEAST_POLICIES
    if not number or too_few or (held is None and len(uniform) < 2):
        return artifact
    if held is None:
        x, y = data.training()
        order = np.random.default_rng(0).permutation(num_rows(x))[:_MOST_MEASURED]
        x, y = rows(x, order), rows(y, order)
        samples = Data(name=data.name, x_test=x, y_test=y, x_train=x, y_train=y)
    else:
        samples = held
    store.parent.mkdir(exist_ok=True)
    return measure(
        artifact,
        samples,
        num_policies=number,
        trained_on=held is None,
        seed=seed,
        jobs=jobs,
        store=store,
        allow_odd_data=True,  # the developer's own, of which a warning tells
    )


def float_network(
    path: str | None,
    config: RecipeConfig,
    data: Data,
    *,
    seed: int,
    folder: Path | None = None,
) -> Any:
    """Returns the float network of a file, or without one, that a recipe trains.

    It is compiled for cross-entropy on logits and accuracy, whatever the file was
    compiled with; untrained, if the recipe starts from scratch.

    Raises:
      MatarError: If there is a file and a recipe from scratch, the file holds no Keras
        network, or its samples or classes are not those of the data.
    """
    from matar_tf.keras import load_float, train_float

    if path and config.float_schedule is None:
        raise MatarError(
            f"Expected no --float for {config.name!r}, which starts from scratch, got "
            f"{path!r}; leave one of the two out."
        )
    if path:
        return load_float(path, data)
    return train_float(
        functools.partial(_built, config, data.name),
        data,
        config.float_schedule,
        seed=seed,
        folder=folder,
    )


def _built(
    config: RecipeConfig, name: str, shape: tuple[int, ...], num_classes: int
) -> Any:
    """Returns the network of a recipe for samples of a shape.

    Raises:
      DataError: If it has none for them.
    """
    try:
        return config.build_model(shape, num_classes)
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"Expected samples that the network of the recipe {config.name!r} takes, "
            f"got {name!r} of shape {('n', *shape)}; choose another recipe, or reshape "
            "the samples."
        ) from error
