"""What every program shares: one way to fail, one way to start."""

from __future__ import annotations

import functools
import io
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app

from matar_tf.errors import MatarError

if TYPE_CHECKING:
    from typing import Any

    from matar_tf.data import Data
    from matar_tf.policy import Policy
    from matar_tf.space import PolicySpace
    from recipes.common import RecipeConfig

__all__ = [
    "check_flags_only",
    "command_line",
    "float_network",
    "read_policy",
    "reports_errors",
    "run",
    "training_data",
]


def reports_errors(
    main: Callable[[Sequence[str]], int],
) -> Callable[[Sequence[str]], int]:
    """Makes a ``main`` print what the user can mend as one line, with status 1."""

    @functools.wraps(main)
    def guarded(argv: Sequence[str]) -> int:
        try:
            return main(argv)
        except (MatarError, ModuleNotFoundError, OSError) as error:
            print(f"{type(error).__name__}: {_sentence(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            return 130

    return guarded


def _sentence(error: Exception) -> str:
    """Returns what an error says; of a file, which one, and what to do."""
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    return (
        f"Expected to read or write {error.filename}, got: {error.strerror}; check the "
        "path, its permissions and the space on the disk."
    )


def check_flags_only(argv: Sequence[str]) -> None:
    """Refuses arguments that are not flags.

    Raises:
      MatarError: If there are any.
    """
    if len(argv) > 1:
        raise MatarError(
            f"Expected flags only, got {' '.join(argv[1:])!r}; see --help."
        )


def read_policy(spec: str, space: PolicySpace) -> Policy:
    """Returns a policy of a space: a uniform one by its name, or from a ``.json`` file.

    Raises:
      PolicyError: If there is none, or it is not of the space.
    """
    from matar_tf.errors import PolicyError
    from matar_tf.io.json_reader import JsonReader
    from matar_tf.policy import Policy

    if not spec.endswith(".json"):
        policy = space.named(spec)
    else:
        try:
            content = Path(spec).read_bytes()
        except OSError as error:
            raise PolicyError(
                f"Expected a policy in JSON in {spec}, but: {error}."
            ) from error
        policy = Policy.from_json(JsonReader(PolicyError).parse(content, spec))
    space.validate(policy)
    return policy


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
    from matar_tf.errors import MatarError
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
    from matar_tf.errors import DataError

    try:
        return config.build_model(shape, num_classes)
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"Expected samples that the network of the recipe {config.name!r} takes, "
            f"got {name!r} of shape {('n', *shape)}; choose another recipe, or reshape "
            "the samples."
        ) from error


def training_data(config: RecipeConfig, spec: str | None) -> Data:
    """Returns the data of ``--data``, or without it those of a recipe.

    Raises:
      DataError: If neither says which, they cannot be read, or have no training set.
    """
    from matar_tf.data import load_data
    from matar_tf.errors import DataError

    source = spec or config.data
    if source is None:
        raise DataError(
            f"Expected --data for the recipe {config.name!r}: the path of an .npz file "
            "with x_train, y_train, x_test and y_test."
        )
    data = load_data(source)
    data.training()
    return data


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Starts a program; its return value is the exit status.

    What the terminal or the file that it prints to has no letter for is printed as '?'.
    """
    # The other stream writes an escape there, whatever its encoding.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    app.run(main)


def command_line() -> str:
    """Returns how this program was started, for the record."""
    return shlex.join(["python", *sys.argv])
