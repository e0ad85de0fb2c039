"""What a search is asked for as keywords of a function, for help and for errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from matar_tf.artifact import Artifact
from matar_tf.data import Data
from matar_tf.errors import SearchError, did_you_mean
from matar_tf.run.predicting import aimed, metrics_of_run
from matar_tf.run.settings import RunSettings, settings_of

__all__ = ["settings_from", "takes_options"]

_F = TypeVar("_F", bound=Callable[..., Any])
_OPTIONS = "      **options: Of the search, each a keyword."


def takes_options(function: _F) -> _F:
    """Shows the options of a run in signature and docstring of a function."""
    options = list(inspect.signature(settings_of).parameters.values())[1:]
    signature = inspect.signature(function)
    own = [
        one
        for one in signature.parameters.values()
        if one.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    names = {one.name for one in own}
    added = [one for one in options if one.name not in names]
    function.__signature__ = signature.replace(parameters=[*own, *added])  # pyright: ignore[reportFunctionMemberAccess]
    # Without docstrings (python -OO) there is nothing to fill in.
    described = (settings_of.__doc__ or "").partition("      seed:")[2]
    texts = f"      seed:{described.partition('    Raises:')[0].rstrip()}"
    function.__doc__ = (function.__doc__ or "").replace(_OPTIONS, texts)
    return function


def settings_from(
    artifact: Artifact, data: Data | None, given: Mapping[str, Any], function: str
) -> RunSettings:
    """Returns what a search is asked for, with what follows from its samples.

    Args:
      artifact: The packaged network.
      data: Samples; None for none.
      given: Keywords of `settings_of`.
      function: Name of the function that got them.

    Raises:
      SearchError: If there is no such keyword.
    """
    known = list(inspect.signature(settings_of).parameters)[1:]
    for name in given:
        if name not in known:
            raise SearchError(
                f"{function}() has no option {name!r}. {did_you_mean(name, known)}"
            )
    options = {"command": f"matar_tf.{function}", **given}
    options["metrics"] = options.get("metrics") or metrics_of_run(artifact, data)
    settings = settings_of(artifact.space, **options)
    if options.get("objectives") is None:
        settings = aimed(settings, artifact, data)
    return settings
