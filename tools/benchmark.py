"""Measures what the project claims, side by side in one run; prints each bar.

Exit status 1 if a bar falls short. ``core``: the integer core, on an artifact of
MLPerf Tiny's ResNet-8 and CIFAR-10 images. ``targets``: the catalogue's cost models
against published figures; needs no TensorFlow. ``host``: the model of this machine
against measured latency. ``training``: a recipe's steps against those of tfmot's QAT.
``search``: fronts against enumeration, plain NSGA-II and each other. ``luck``: how
much of that is the luck of samples, and what no search can do better. ``memory``:
accuracy at budgets of weight memory, on the artifact of cifar10_resnet8 and CIFAR-10.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.bars import Bar
from tools.common import reports_errors, run

_MAX_WORKER_SAMPLES = 1000  # of the searches that are killed, forty in all
_ARTIFACT = flags.DEFINE_string(
    "artifact",
    None,
    "Artifact, directory or .matar file; core: with its Keras network; targets: to "
    "compare the Ethos-U models with Vela.",
)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "Data that the artifact was trained on, default digits; training: of the recipe, "
    "default random images of CIFAR-10's size, since no time depends on their values.",
)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "core, host, training, and the workers of search: the seed.",
    lower_bound=0,
)
_POLICIES = flags.DEFINE_integer(
    "policies", 100, "Policies compared with the converter.", lower_bound=3
)
_NETWORKS = flags.DEFINE_integer(
    "networks", 30, "host: random networks that are timed.", lower_bound=3
)
_REFERENCE_DATA = flags.DEFINE_string(
    "reference_data",
    None,
    "targets: folder with haq_bismo_mobilenetv2_batch16.npy and bitfusion_sweep.csv.",
)
_RECIPE = flags.DEFINE_string(
    "recipe", "cifar10_resnet8", "training: name of the recipe."
)
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 500, "search, luck, memory: samples of a search.", lower_bound=1
)
_EVALUATIONS = flags.DEFINE_integer(
    "evaluations", 300, "search, luck, memory: policies of a search.", lower_bound=40
)
_STORE = flags.DEFINE_string(
    "store", None, "search: file that keeps what was measured, for a later run."
)
_MARKDOWN = flags.DEFINE_string("markdown", None, "targets: file for the table.")


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Runs the suite that is named; prints one line per bar."""
    from matar_tf.errors import MatarError, did_you_mean

    if len(argv) != 2 or argv[1] not in _SUITE_BARS:
        raise MatarError(
            f"Expected the name of a suite, got {list(argv[1:])}. "
            f"{did_you_mean(' '.join(argv[1:]), _SUITE_BARS)}"
        )
    _check_flags(argv[1])
    all_held = True
    for bar in _SUITE_BARS[argv[1]]():
        all_held &= bar.held
        verdict = "held" if bar.held else "falls short"
        print(f"{verdict:12s} {bar.name}: {bar.figure} (bar: {bar.limit})", flush=True)
    return 0 if all_held else 1


def _core() -> Iterator[Bar]:
    from tools.benchmark_core import measure_core

    yield from measure_core(
        _required_artifact("core"),
        _DATA.value or "digits",
        seed=_SEED.value,
        num_policies=_POLICIES.value,
    )


def _targets() -> Iterator[Bar]:
    from matar_tf.artifact import read_artifact
    from tools import benchmark_points, benchmark_targets

    points = benchmark_points.points()
    table = benchmark_points.to_markdown(points)
    print(table)
    if _MARKDOWN.value is not None:
        Path(_MARKDOWN.value).write_text(table, encoding="utf-8")
    yield from benchmark_targets.check_points(points)
    if _ARTIFACT.value is not None:
        artifact = read_artifact(_ARTIFACT.value)
        yield from benchmark_targets.compare_with_vela(artifact)
    if _REFERENCE_DATA.value is not None:
        yield from benchmark_targets.measure_reference_data(_REFERENCE_DATA.value)


def _host() -> Iterator[Bar]:
    from tools.benchmark_host import measure_host

    yield from measure_host(seed=_SEED.value, num_networks=_NETWORKS.value)


def _training() -> Iterator[Bar]:
    from tools.benchmark_training import measure_training

    yield from measure_training(_RECIPE.value, _DATA.value, seed=_SEED.value)


def _search() -> Iterator[Bar]:
    from tools.benchmark_search import measure_search
    from tools.benchmark_workers import measure_workers

    yield from measure_search(
        _required_artifact("search"),
        _DATA.value or "digits",
        num_samples=_NUM_SAMPLES.value,
        num_evaluations=_EVALUATIONS.value,
        store_path=_STORE.value,
    )
    yield from measure_workers(
        _required_artifact("search"),
        _DATA.value or "digits",
        num_samples=min(_NUM_SAMPLES.value, _MAX_WORKER_SAMPLES),
        seed=_SEED.value,
    )


def _luck() -> Iterator[Bar]:
    from tools.benchmark_luck import measure_luck

    yield from measure_luck(
        _required_artifact("luck"),
        _DATA.value or "digits",
        num_samples=_NUM_SAMPLES.value,
        num_evaluations=_EVALUATIONS.value,
    )


def _memory() -> Iterator[Bar]:
    from tools.benchmark_memory import measure_memory

    yield from measure_memory(
        _required_artifact("memory"),
        _DATA.value or "digits",
        num_samples=_NUM_SAMPLES.value,
        num_evaluations=_EVALUATIONS.value,
    )


def _required_artifact(suite: str) -> str:
    from matar_tf.errors import MatarError

    if _ARTIFACT.value is None:
        raise MatarError(f"Expected --artifact for the suite {suite!r}, got none.")
    return _ARTIFACT.value


def _check_flags(suite: str) -> None:
    """Refuses flags that a suite would not look at."""
    from matar_tf.errors import MatarError

    every = sorted(set().union(*_SUITE_FLAGS.values()))
    for name in every:
        if (
            not flags.FLAGS[name].using_default_value
            and name not in _SUITE_FLAGS[suite]
        ):
            raise MatarError(
                f"Expected flags of the suite {suite!r} "
                f"({', '.join(sorted(_SUITE_FLAGS[suite]))}), got --{name}; leave it "
                "out."
            )


_SEARCHED = frozenset({"artifact", "data", "num_samples", "evaluations"})
_SUITE_FLAGS = {
    "core": frozenset({"artifact", "data", "seed", "policies"}),
    "host": frozenset({"seed", "networks"}),
    "luck": _SEARCHED,
    "memory": _SEARCHED,
    "search": _SEARCHED | {"store", "seed"},
    "targets": frozenset({"artifact", "reference_data", "markdown"}),
    "training": frozenset({"recipe", "data", "seed"}),
}
_SUITE_BARS = {
    "core": _core,
    "host": _host,
    "luck": _luck,
    "memory": _memory,
    "search": _search,
    "targets": _targets,
    "training": _training,
}


if __name__ == "__main__":
    run(main)
