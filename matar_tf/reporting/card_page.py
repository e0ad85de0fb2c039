"""The card of an artifact in Markdown: what it is, in words and figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

from matar_tf.card import CARD_KEY, ModelCard
from matar_tf.figures import figure_of
from matar_tf.packaged import UNVERIFIED, Artifact
from matar_tf.reporting.markdown import markdown_table, markdown_text
from matar_tf.scales import FREE

__all__ = ["model_card"]

_NOT_SAID: Final = "not said"
_UNCHECKED: Final = "not checked; `matar verify ARTIFACT --trust=KEY` does"
_TITLES: Final = {
    "intended_use": "Intended use",
    "author": "Author",
    "license": "Licence",
    "training_data": "Training data",
    "preprocessing": "Preprocessing",
}
_TRAVELS: Final = {
    "network.json": "the Keras network, to train on",
    "network.npz": "its weights",
    "calibration.npz": "samples to calibrate on",
}
_MOST_CLASSES: Final = 50  # that are listed


def model_card(artifact: Artifact) -> str:
    """Returns the card of an artifact, Markdown: what its maker says, and its figures.

    Texts of the artifact are escaped: they can neither end a table nor hold HTML.

    Raises:
      ArtifactError: If what it holds as a card is none.
    """
    card = ModelCard.from_json(artifact.provenance.get(CARD_KEY, {}))
    return "\n".join(_lines(artifact, card)) + "\n"


def _lines(artifact: Artifact, card: ModelCard) -> Iterator[str]:
    yield f"# {markdown_text(artifact.name)}"
    yield ""
    if card.description:
        yield markdown_text(card.description)
        yield ""
    for name, title in _TITLES.items():
        yield f"- **{title}:** {markdown_text(getattr(card, name) or _NOT_SAID)}"
    yield f"- **Classes:** {_classes(card)}"
    yield ""
    yield "## Inputs and outputs"
    yield ""
    workload = artifact.workload
    yield from markdown_table(
        ("tensor", "shape of a sample"),
        [
            (f"{what} {tensor}", " x ".join(map(str, workload.tensors[tensor].shape)))
            for what, tensors in (
                ("input", workload.inputs),
                ("output", workload.outputs),
            )
            for tensor in tensors
        ],
    )
    yield ""
    if artifact.inputs:
        yield from _inputs(artifact)
    yield "## Policies"
    yield ""
    space = artifact.space
    yield (
        f"{space.size_text()}: {len(space.weights)} weights and "
        f"{len(space.activations)} activations, each of a width of its own; "
        f"{workload.macs:,} multiply-accumulates."
        + ("" if space.scale == FREE else " All scales are powers of two.")
    )
    yield ""
    yield from _figures(artifact)
    yield "## Where it comes from"
    yield ""
    for key, value in artifact.provenance.items():
        if key != CARD_KEY:
            yield f"- {markdown_text(key)}: {markdown_text(_text_of(value))}"
    source = artifact.source
    if source is not None:
        yield f"- SHA-256: {source.digest}"
        yield f"- signed by: {source.signed_by or _UNCHECKED}"
    there = [what for name, what in _TRAVELS.items() if name in artifact.extras]
    if artifact.measurements is not None:
        there.insert(0, markdown_text(str(artifact.measurements)))
    yield f"- beside template and parameters it holds: {', '.join(there) or 'nothing'}"


def _inputs(artifact: Artifact) -> Iterator[str]:
    """Yields the table of what samples were."""
    rows = [
        (
            name,
            *(one.layout or "vector", one.channels or _NOT_SAID),
            f"{one.low:.4g}..{one.high:.4g}",
            *(
                ", ".join(f"{figure:.4g}" for figure in figures)
                for figures in (one.mean, one.deviation)
            ),
            f"{one.num_samples:,}",
        )
        for name, one in artifact.inputs.items()
    ]
    heads = ("input", "layout", "channels", "range", "mean", "deviation", "of samples")
    yield from markdown_table(heads, rows)
    yield ""


def _classes(card: ModelCard) -> str:
    if not card.class_names:
        return _NOT_SAID
    names = ", ".join(card.class_names[:_MOST_CLASSES])
    others = len(card.class_names) - _MOST_CLASSES
    return markdown_text(names) + (f" and {others} others" if others > 0 else "")


def _figures(artifact: Artifact) -> Iterator[str]:
    """Yields the table of what the maker measured."""
    rows = artifact.accuracy
    metrics = list(dict.fromkeys(name for row in rows.values() for name in row))
    if not metrics:
        return
    yield "## As measured by its maker"
    yield ""
    if not artifact.is_verified:
        yield f"{UNVERIFIED.capitalize()}."
        yield ""
    yield from markdown_table(
        ("policy", *(figure_of(name).title for name in metrics)),
        [
            (
                policy,
                *(
                    figure_of(one).text(row[one]) if one in row else ""
                    for one in metrics
                ),
            )
            for policy, row in rows.items()
        ],
    )
    yield ""


def _text_of(value: Any) -> str:
    if isinstance(value, dict):
        known = cast("dict[str, Any]", value)
        return ", ".join(f"{key} {one}" for key, one in known.items())
    return str(value)
