"""What a network itself says of samples and labels: whether they can be meant so.

Its widest policy is run on some of them. Where it is right far less often than its
developer measured, they are tried as mistakes would have them: channels reversed, the
channel axis first, axes of an image exchanged, dark for bright, another scale. If one
of these is what the network was made for, it is named. Else labels may belong to other
samples: then the network names each class as often as the labels do, but not for the
same samples.

Data that are only harder or other than the developer's pass: no mistake undone makes
them much better, and what goes wrong on them goes wrong in few classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from matar_tf.data import Data
from matar_tf.errors import INSIST, OddDataError, PolicyError
from matar_tf.figures import wilson_interval
from matar_tf.inputs import InputInfo
from matar_tf.packaged import Artifact
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import Output, inputs_of, outputs_of
from matar_tf.tflite.fitting_data import labels_of, warn_of
from matar_tf.tflite.heads import are_classes
from matar_tf.tflite.input_range import InputGrid, grids_of_artifact
from matar_tf.tflite.metrics import log_probabilities
from matar_tf.tflite.runtime import Runner

__all__ = ["check_plausible"]

_MOST_SAMPLES: Final = 512  # that are looked at
_LEAST_SAMPLES: Final = 16  # of fewer nothing can be said
_MARGIN: Final = 0.02  # below the developer's accuracy that is never looked into
_CHANCE: Final = 1e-3  # that equal ways of reading samples differ as much
_LEAST_GAIN: Final = 0.05  # in accuracy, of a mistake undone
_GAIN_ALONE: Final = 0.1  # likewise, where the developer's accuracy is not known
_T: Final = 3.0  # standard errors of what is told without labels
_SURER: Final = 0.9  # of the entropy as given, of what is told without labels
_NEARER: Final = 0.5  # of the distance of channel means, likewise
_SHARE_LEFT: Final = 0.25  # of what is above chance, of labels of other samples
_ALIKE: Final = 0.8  # of the cosine between shares of classes, named and labelled
_LEAST_PAIRS: Final = 30  # of samples of one class, to tell these shares


@dataclass(frozen=True, kw_only=True)
class _Mistake:
    """A way to get samples wrong.

    Attributes:
      what: What the samples then are, in words.
      mend: How they become right, in Python.
      undo: Does so.
      is_order: Whether it keeps all values, and only their order changes.
    """

    what: str
    mend: str
    undo: Callable[[np.ndarray], np.ndarray]
    is_order: bool = True


def check_plausible(
    artifact: Artifact, data: Data, *, allow_odd_data: bool = False
) -> None:
    """Checks that a network's answers do not say that data are not meant for it.

    Looked at are networks of one input and one output, of a class a sample. It takes
    one run on at most 512 samples, and a few more where something is odd.

    Args:
      artifact: The packaged network.
      data: Samples and labels that fit it; see `check_data`.
      allow_odd_data: Whether what is found is no error, but a `MatarWarning`.

    Raises:
      OddDataError: If they do.
    """
    sentence = _sentence(artifact, data)
    if sentence is None:
        return
    if allow_odd_data:
        warn_of([sentence])
    else:
        raise OddDataError(sentence)


def _sentence(artifact: Artifact, data: Data) -> str | None:
    inputs, outputs = inputs_of(artifact.template), [*outputs_of(artifact.template)]
    if len(inputs) > 1 or len(outputs) > 1 or data.num_samples < _LEAST_SAMPLES:
        return None
    data = data.part(slice(None, None, -(-data.num_samples // _MOST_SAMPLES)))
    labels = _classes(data, outputs[0])
    expected = _expected(artifact)
    of_classes = labels is not None or expected is not None
    if not of_classes or data.x_test.dtype.kind != "f" or len(outputs[0].shape) != 1:
        return None
    runner = Runner(ModelBuilder(artifact).build(artifact.space.widest()))
    given = _Answers.of(runner, data.x_test, outputs[0])
    if labels is None:
        return _of_samples(artifact, data, runner, given)
    right = given.classes == labels
    most = wilson_interval(float(right.mean()), len(right))[1]
    if expected is not None and most > expected - _MARGIN:
        return None
    return _of_mistakes(artifact, data, runner, given, labels, expected) or (
        _of_labels(data, given.classes, labels, expected)
    )


def _of_samples(
    artifact: Artifact, data: Data, runner: Runner, given: _Answers
) -> str | None:
    """Returns what samples without labels tell of their order."""
    info = next(iter(artifact.inputs.values()), None)
    for mistake in _mistakes(data.x_test, None, info):
        mended = np.ascontiguousarray(mistake.undo(data.x_test))
        undone = _Answers.of(runner, mended, outputs_of(artifact.template)[0])
        if info is not None and _is_told(given, undone, data.x_test, mended, info):
            means, ours = (
                ", ".join(f"{mean:.3f}" for mean in one)
                for one in (data.x_test.mean(axis=(0, 1, 2)), info.mean)
            )
            return (
                f"{_expected_samples(artifact)}, got {mistake.what} in {data.name!r}: "
                f"the means of their channels are {means}, of those that it was made "
                f"with {ours}, and it is surer of {mistake.mend}; give these, or "
                f"{INSIST}."
            )
    return None


def _of_mistakes(
    artifact: Artifact,
    data: Data,
    runner: Runner,
    given: _Answers,
    labels: np.ndarray,
    expected: float | None,
) -> str | None:
    """Returns the mistake that has been made with labelled samples."""
    info = next(iter(artifact.inputs.values()), None)
    (grid,) = grids_of_artifact(artifact).values()
    mistakes = list(_mistakes(data.x_test, grid, info))
    right = given.classes == labels
    for mistake in mistakes:
        mended = np.ascontiguousarray(mistake.undo(data.x_test), np.float32)
        undone = _Answers.of(runner, mended, outputs_of(artifact.template)[0])
        again = undone.classes == labels
        is_told = (
            info is not None
            and mistake.is_order
            and again.sum() > right.sum()
            and _is_told(given, undone, data.x_test, mended, info)
        )
        if is_told or _recovers(right, again, expected, _CHANCE / len(mistakes)):
            return (
                f"{_expected_samples(artifact)}, got {mistake.what} in {data.name!r}: "
                f"at its widest it is right on {right.mean():.1%} of {len(right)} of "
                f"them, and on {again.mean():.1%} of {mistake.mend}"
                f"{_beside(expected)}; give these, or {INSIST}."
            )
    return None


def _of_labels(
    data: Data, classes: np.ndarray, labels: np.ndarray, expected: float | None
) -> str | None:
    """Returns that labels are those of other samples, if they are."""
    if expected is None or not _are_of_others(classes, labels, expected):
        return None
    return (
        f"Expected the labels of the samples, got those of others in {data.name!r}: at "
        f"its widest this network is right on {(classes == labels).mean():.1%} of "
        f"{len(labels)}, no more than by chance{_beside(expected)}; check that labels "
        "are in the order of the samples, and classes numbered as at training, or "
        f"{INSIST}."
    )


def _expected_samples(artifact: Artifact) -> str:
    channels = [one.channels for one in artifact.inputs.values() if one.channels]
    known = f" ({channels[0]})" if channels else ""
    return f"Expected samples as this network takes them{known}"


def _beside(expected: float | None) -> str:
    return "" if expected is None else f" (its developer measured {expected:.1%})"


def _classes(data: Data, output: Output) -> np.ndarray | None:
    """Returns the class of each sample; None if nobody says it."""
    if not data.is_labelled:
        return None
    labels = data.y_test
    if isinstance(labels, Mapping):
        (labels,) = labels_of(data, [output.name]).values()
    return labels if are_classes(labels, output.shape) else None


def _expected(artifact: Artifact) -> float | None:
    """Returns the accuracy of the widest policy that the developer measured, or None.

    On samples that were held out: the accuracy table's, or else that of measurements.
    """
    widest = artifact.space.widest()
    for name, row in artifact.accuracy.items():
        try:
            policy = artifact.space.named(name)
        except PolicyError:
            continue
        if policy == widest and "accuracy" in row:
            return row["accuracy"]
    measured = artifact.measurements
    if measured is None or measured.trained_on or "accuracy" not in measured.metrics:
        return None
    if widest not in measured.policies:
        return None
    place = measured.policies.index(widest)
    return float(measured.metrics["accuracy"][:, place].mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class _Answers:
    """What a network makes of samples.

    Attributes:
      classes: The class that it names, ``[num_samples]``.
      entropy: Of its distribution over classes, in nats, ``[num_samples]``.
    """

    classes: np.ndarray
    entropy: np.ndarray

    @classmethod
    def of(cls, runner: Runner, samples: np.ndarray, output: Output) -> _Answers:
        outputs: Any = runner.predict(samples)
        logs = log_probabilities(outputs, output.gives_probabilities)
        return cls(
            classes=logs.argmax(axis=-1), entropy=-(np.exp(logs) * logs).sum(axis=-1)
        )


def _mistakes(
    samples: np.ndarray, grid: InputGrid | None, info: InputInfo | None
) -> Iterator[_Mistake]:
    """Yields what may be wrong with samples of their shape and range.

    Args:
      samples: As given.
      grid: That of the input, or None to leave scales alone.
      info: What the developer left of the input, or None.
    """
    if samples.ndim == 4:
        number, height, width, channels = samples.shape
        if channels == 3:
            yield _Mistake(
                what="channels in reversed order",
                mend="x[..., ::-1]",
                undo=lambda x: x[..., ::-1],
            )
        if channels > 1:
            first = (number, channels, height, width)
            yield _Mistake(
                what="images whose channel axis was first",
                mend=f"x.reshape{(-1, *first[1:])}.transpose(0, 2, 3, 1)",
                undo=lambda x: x.reshape(first).transpose(0, 2, 3, 1),
            )
        if height == width > 1:
            yield _Mistake(
                what="images with rows as columns",
                mend="x.swapaxes(1, 2)",
                undo=lambda x: x.swapaxes(1, 2),
            )
    if grid is None:
        return
    if info is not None:
        ends = info.low + info.high
        yield _Mistake(
            what="samples with low and high values exchanged",
            mend=f"{ends:g} - x",
            undo=lambda x: ends - x,
            is_order=False,
        )
    low, high = float(samples.min()), float(samples.max())
    is_unit, is_signed = low >= 0.0 and high <= 1.0, low < -0.5 and low >= -1.0
    is_of_bytes = low >= 0.0 and 2.0 < high <= 255.0
    for is_this, fits, mend, undo in (
        (is_unit, grid.low < -0.5, "2 * x - 1", lambda x: 2.0 * x - 1.0),
        (is_unit, grid.high > 2.0, "255 * x", lambda x: 255.0 * x),
        (is_signed, high <= 1.0, "(x + 1) / 2", lambda x: (x + 1.0) / 2.0),
        (is_of_bytes, grid.high < 16.0, "x / 255", lambda x: x / 255.0),
        (is_of_bytes, grid.low < -0.5, "x / 127.5 - 1", lambda x: x / 127.5 - 1.0),
    ):
        if is_this and fits:
            yield _Mistake(
                what=f"{low:.4g}..{high:.4g}", mend=mend, undo=undo, is_order=False
            )


def _recovers(
    right: np.ndarray, again: np.ndarray, expected: float | None, chance: float
) -> bool:
    """Returns whether a mistake undone gives a network its accuracy back.

    It must give half of what is missing, and more than by chance (McNemar's test, of
    the samples that are right in one of the two ways).

    Args:
      right: Whether each sample is, as given.
      again: The same, with the mistake undone.
      expected: The developer's accuracy, or None.
      chance: How unlikely such a gain must be by chance.
    """
    gain, least = float(again.mean() - right.mean()), _GAIN_ALONE
    if expected is not None:
        least = max(_LEAST_GAIN, (expected - float(right.mean())) / 2.0)
    better = int((again & ~right).sum())
    number = better + int((right & ~again).sum())
    ways = sum(math.comb(number, one) for one in range(better, number + 1))
    return gain >= least and ways <= chance * 2**number


def _is_told(
    given: _Answers,
    undone: _Answers,
    samples: np.ndarray,
    mended: np.ndarray,
    info: InputInfo,
) -> bool:
    """Returns whether samples tell a mistake in their order without their labels.

    The means of channels are nearer to the developer's when it is undone, and the
    network is surer of its answers, both by more than chance.
    """
    if samples.ndim != 4 or len(info.mean) != samples.shape[-1]:
        return False
    if undone.entropy.mean() > _SURER * given.entropy.mean():
        return False
    theirs, ours = (one.mean(axis=(1, 2), dtype=float) for one in (samples, mended))
    before, after = theirs.mean(axis=0), ours.mean(axis=0)
    distances = [
        float(np.linalg.norm(mean - np.array(info.mean))) for mean in (before, after)
    ]
    if distances[1] > _NEARER * distances[0]:
        return False
    # |a - m|^2 - |b - m|^2 = (a - b)(a + b - 2 m), a mean over samples.
    nearer = (theirs - ours) @ (before + after - 2.0 * np.array(info.mean))
    return _is_above(nearer) and _is_above(given.entropy - undone.entropy)


def _is_above(values: np.ndarray) -> bool:
    """Returns whether the mean of values is above 0 by many standard errors."""
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) > _T * error > 0.0


def _are_of_others(classes: np.ndarray, labels: np.ndarray, expected: float) -> bool:
    """Returns whether labels go with samples no better than those of others would.

    A pair of different samples has the class that is named for one as the label of the
    other with the probability ``chance``. Labels are of others if the network is
    hardly right more often, and names each class about as often as labels do: on
    samples that are only hard for it, it names few classes.

    Args:
      classes: That the network names.
      labels: As many.
      expected: The developer's accuracy.
    """
    number, size = len(labels), int(max(classes.max(), labels.max())) + 1
    named, labelled = (
        np.bincount(one, minlength=size).astype(float) for one in (classes, labels)
    )
    right = int((classes == labels).sum())
    pairs = [float((one * (one - 1.0)).sum()) for one in (named, labelled)]
    both = float(named @ labelled) - right
    if min(pairs) < 2 * _LEAST_PAIRS or both < _ALIKE * math.sqrt(math.prod(pairs)):
        return False
    chance = both / (number * (number - 1.0))
    most = wilson_interval(right / number, number)[1]
    return most < chance + _SHARE_LEFT * (expected - chance)
