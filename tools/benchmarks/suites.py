"""Measures what the project claims, side by side in one run; prints each bar.

Exit status 1 if a bar falls short. ``core``: the integer core, on an artifact of
MLPerf Tiny's ResNet-8 and CIFAR-10 images. ``targets``: the catalogue's cost models
against published figures; needs no TensorFlow. ``host``: the model of this machine
against measured latency. ``calibrate``: rates fitted to twenty timed files against
other networks' latency. ``training``: a recipe's steps against those of tfmot's QAT.
``search``: fronts against enumeration, plain NSGA-II and each other. ``luck``: how
much of that is the luck of samples, and what no search can do better. ``memory``:
accuracy at budgets of weight memory, on the artifact of cifar10_resnet8 and CIFAR-10.
``data``: searches without data, judged on images that nobody searched.
``devices``: the shipped ResNet-8 and DS-CNN as files for microcontrollers, on CIFAR-10.
``untrained``: a recipe's float network that was quantized and calibrated alone, before
and after `reestimate_batch_norm`; without ``--float`` it is trained first.
``kills``: what programs leave that are killed, or whose disk is full. ``zoo``: ordinary
networks, from float to file. ``zoo_size``: large ones' time, memory and bytes.
``zoo_kinds``: a network of each kind of layer, trained on digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from absl import flags

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given
from tools.benchmarks.bars import Bar

if TYPE_CHECKING:
    from absl.flags import FlagValues

__all__ = ["COMMAND", "SUITES", "SUITE_FLAGS"]

_MAX_WORKER_SAMPLES: Final = 1000  # of the searches that are killed, forty in all


def _define(values: FlagValues) -> None:
    _flags.artifact(
        values,
        "The artifact; core: with its Keras network; targets: to compare the Ethos-U "
        "models with Vela",
    )
    _flags.data(
        values,
        "Data that the artifact was trained on, default digits; training: of the "
        "recipe, default random images of CIFAR-10's size, since no time depends on "
        "their values; untrained: of the recipe",
    )
    _flags.seed(
        values,
        "core, host, calibrate, kills, training, untrained, zoo, the workers of search",
    )
    flags.DEFINE_integer(
        "kills", 100, "kills: how many.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer(
        "full_disks", 20, "kills: how many.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer(
        "policies",
        100,
        "Policies compared with the converter.",
        lower_bound=3,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "networks",
        30,
        "host, calibrate: random networks that are timed.",
        lower_bound=3,
        flag_values=values,
    )
    flags.DEFINE_list(
        "only",
        None,
        "zoo, calibrate: names of networks; data: parts (predictor, memory, front, "
        "few, shifted, time); default all.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "sources",
        "tf_keras",
        "zoo: in what networks are made: tf_keras, keras3 or keras3_file.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "reference_data",
        None,
        "targets: folder with haq_bismo_mobilenetv2_batch16.npy and "
        "bitfusion_sweep.csv.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "recipe",
        "cifar10_resnet8",
        "training, untrained: name of the recipe.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "float",
        None,
        "untrained: file of the recipe's float network, saved by Keras.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_samples",
        500,
        "search, luck, memory: samples of a search; untrained: unlabelled ones that "
        "a network is calibrated on; devices: images to compare outputs on.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "evaluations",
        300,
        "data, search, luck, memory: policies of a search.",
        lower_bound=40,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "draws",
        10,
        "data: draws of few samples, of as many seeds.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "store",
        None,
        "data, search: file that keeps what was measured, for a later run.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "markdown", None, "targets: file for the table.", flag_values=values
    )


def _run(given: Given) -> int:
    """Runs the suite that is named; prints one line per bar."""
    from matar_tf.errors import MatarError, did_you_mean

    if len(given.words) != 1 or given.words[0] not in SUITES:
        raise MatarError(
            f"Expected the name of a suite, got {list(given.words)}. "
            f"{did_you_mean(' '.join(given.words), SUITES)}"
        )
    suite = given.words[0]
    _check_flags(suite, given)
    all_held = True
    for bar in SUITES[suite](given):
        all_held &= bar.held
        verdict = "held" if bar.held else "falls short"
        print(f"{verdict:12s} {bar.name}: {bar.figure} (bar: {bar.limit})", flush=True)
    return 0 if all_held else 1


def _core(given: Given) -> Iterator[Bar]:
    from tools.benchmarks.core import measure_core

    yield from measure_core(
        _required_artifact("core", given),
        given.data or "digits",
        seed=given.seed,
        num_policies=given.policies,
    )


def _targets(given: Given) -> Iterator[Bar]:
    from matar_tf.artifact import read_artifact
    from tools.benchmarks import points, targets

    found = points.points()
    table = points.to_markdown(found)
    print(table)
    if given.markdown is not None:
        Path(given.markdown).write_text(table, encoding="utf-8")
    yield from targets.check_points(found)
    if given.artifact is not None:
        artifact = read_artifact(given.artifact)
        yield from targets.compare_with_vela(artifact)
    if given.reference_data is not None:
        yield from targets.measure_reference_data(given.reference_data)


def _host(given: Given) -> Iterator[Bar]:
    from tools.benchmarks.host import measure_host

    yield from measure_host(seed=given.seed, num_networks=given.networks)


def _calibrate(given: Given) -> Iterator[Bar]:
    from tools.benchmarks.calibration import measure_calibration

    yield from measure_calibration(
        given.only, seed=given.seed, num_networks=given.networks
    )


def _training(given: Given) -> Iterator[Bar]:
    from tools.benchmarks.training import measure_training

    yield from measure_training(given.recipe, given.data, seed=given.seed)


def _search(given: Given) -> Iterator[Bar]:
    from tools.benchmarks.search import measure_search
    from tools.benchmarks.workers import measure_workers

    yield from measure_search(
        _required_artifact("search", given),
        given.data or "digits",
        num_samples=given.num_samples,
        num_evaluations=given.evaluations,
        store_path=given.store,
    )
    yield from measure_workers(
        _required_artifact("search", given),
        given.data or "digits",
        num_samples=min(given.num_samples, _MAX_WORKER_SAMPLES),
        seed=given.seed,
    )


def _luck(given: Given) -> Iterator[Bar]:
    from tools.benchmarks.luck import measure_luck

    yield from measure_luck(
        _required_artifact("luck", given),
        given.data or "digits",
        num_samples=given.num_samples,
        num_evaluations=given.evaluations,
    )


def _memory(given: Given) -> Iterator[Bar]:
    from tools.benchmarks.memory import measure_memory

    yield from measure_memory(
        _required_artifact("memory", given),
        given.data or "digits",
        num_samples=given.num_samples,
        num_evaluations=given.evaluations,
    )


def _data(given: Given) -> Iterator[Bar]:
    from tools.benchmarks.data import measure_data
    from tools.benchmarks.few_samples import Drawing

    drawing = Drawing(
        num_evaluations=given.evaluations,
        num_draws=given.draws,
        store=given.store,
        parts=tuple(given.only or ()),
    )
    yield from measure_data(
        _required_artifact("data", given), given.data or "digits", drawing
    )


def _devices(given: Given) -> Iterator[Bar]:
    from tools.benchmarks.devices import measure_devices
    from tools.benchmarks.devices_onnx import measure_onnx

    data = given.data or "digits"
    yield from measure_devices(data, num_samples=given.num_samples)
    yield from measure_onnx(data, seed=given.seed)


def _untrained(given: Given) -> Iterator[Bar]:
    from tools.benchmarks.untrained import measure_untrained

    yield from measure_untrained(
        given.recipe,
        given.data or "digits",
        float_path=given.float,
        num_samples=given.num_samples,
        seed=given.seed,
    )


def _kills(given: Given) -> Iterator[Bar]:
    from tools.benchmarks.kills import measure_kills

    yield from measure_kills(
        seed=given.seed, num_kills=given.kills, num_full_disks=given.full_disks
    )


def _zoo(given: Given) -> Iterator[Bar]:
    from tools.benchmarks.zoo import measure_zoo

    yield from measure_zoo(given.only, seed=given.seed, sources=given.sources)


def _zoo_kinds(given: Given) -> Iterator[Bar]:
    from tools.benchmarks.zoo_kinds import measure_zoo_kinds

    yield from measure_zoo_kinds(seed=given.seed)


def _zoo_size(given: Given) -> Iterator[Bar]:
    from tools.benchmarks.zoo_size import measure_zoo_size

    yield from measure_zoo_size(seed=given.seed)


def _required_artifact(suite: str, given: Given) -> str:
    from matar_tf.errors import MatarError

    if given.artifact is None:
        raise MatarError(f"Expected --artifact for the suite {suite!r}, got none.")
    return given.artifact


def _check_flags(suite: str, given: Given) -> None:
    """Refuses flags that a suite would not look at."""
    from matar_tf.errors import MatarError

    known = SUITE_FLAGS[suite]
    for name in sorted(set().union(*SUITE_FLAGS.values()) - known):
        if given.is_given(name):
            raise MatarError(
                f"Expected flags of the suite {suite!r} "
                f"({', '.join(sorted(known))}), got --{name}; leave it "
                "out."
            )


_SEARCHED = frozenset({"artifact", "data", "num_samples", "evaluations"})
SUITE_FLAGS: Final = {
    "calibrate": frozenset({"only", "seed", "networks"}),
    "core": frozenset({"artifact", "data", "seed", "policies"}),
    "data": frozenset({"artifact", "data", "evaluations", "store"}),
    "devices": frozenset({"data", "num_samples", "seed"}),
    "host": frozenset({"seed", "networks"}),
    "kills": frozenset({"seed", "kills", "full_disks"}),
    "luck": _SEARCHED,
    "memory": _SEARCHED,
    "search": _SEARCHED | {"store", "seed"},
    "targets": frozenset({"artifact", "reference_data", "markdown"}),
    "training": frozenset({"recipe", "data", "seed"}),
    "untrained": frozenset({"recipe", "data", "float", "num_samples", "seed"}),
    "zoo": frozenset({"only", "seed", "sources"}),
    "zoo_kinds": frozenset({"seed"}),
    "zoo_size": frozenset({"seed"}),
}
SUITES: Final[dict[str, Callable[[Given], Iterator[Bar]]]] = {
    "calibrate": _calibrate,
    "core": _core,
    "data": _data,
    "devices": _devices,
    "host": _host,
    "kills": _kills,
    "luck": _luck,
    "memory": _memory,
    "search": _search,
    "targets": _targets,
    "training": _training,
    "untrained": _untrained,
    "zoo": _zoo,
    "zoo_kinds": _zoo_kinds,
    "zoo_size": _zoo_size,
}

COMMAND: Final = Command(
    text=__doc__, define=_define, run=_run, words=" | ".join(SUITES)
)
