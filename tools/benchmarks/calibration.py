"""The measurements of ``tools/benchmark.py calibrate``: rates fitted on this machine.

All is timed alike, within a minute: the files that rates are fitted to, and others.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from matar_tf import keras as matar
from matar_tf.errors import MatarError, did_you_mean
from matar_tf.keras import keras
from matar_tf.policy import Policy
from matar_tf.pricing.model import estimate
from matar_tf.run.calibrate import calibrate
from matar_tf.run.fitted_target import Agreement
from matar_tf.run.timing import TimedFile, Times, time_by_litert, time_files
from matar_tf.targets import Target, load_target
from matar_tf.tflite.build import ModelBuilder
from matar_tf.workload import Workload
from tools.benchmarks.bars import Bar
from tools.benchmarks.host import random_networks
from tools.benchmarks.zoo_networks import NETWORKS
from tools.benchmarks.zoo_samples import samples_for

__all__ = ["Timeable", "calibration_bars", "measure_calibration"]

_NUM_FILES: Final = 20
_NUM_ROUNDS: Final = 8
_NUM_SAMPLES: Final = 4
_LEAST_SPEARMAN: Final = 0.97
_LEAST_SHARE: Final = 0.8


@dataclass(frozen=True, kw_only=True)
class Timeable:
    """A network of which a file is timed."""

    file: TimedFile
    workload: Workload
    policy: Policy


def measure_calibration(
    names: Sequence[str] | None, *, seed: int, num_networks: int
) -> Iterator[Bar]:
    """Yields how well times of networks follow from twenty timed files.

    Args:
      names: Of networks of the zoo; None for all that compute with integers.
      seed: Of all networks.
      num_networks: Random networks beside them.

    Raises:
      MatarError: If the zoo has no such network.
    """
    for name in names or ():
        if name not in NETWORKS:
            raise MatarError(
                f"Expected names of networks, got {name!r}. "
                f"{did_you_mean(name, NETWORKS)}"
            )
    chosen = names or [
        name for name, one in NETWORKS.items() if one.integer_share == 1.0
    ]
    sets = {
        "random networks": [*_random(seed, num_networks)],
        "networks of the zoo": [*_of_the_zoo(chosen, seed)],
    }
    with tempfile.TemporaryDirectory() as folder:
        found = calibrate(
            "host_litert",
            Path(folder) / "host_litert.toml",
            num_files=_NUM_FILES,
            num_rounds=_NUM_ROUNDS,
            seed=seed,
        )
        target = load_target(found.path)
        files = [one.file for networks in sets.values() for one in networks]
        times = Times(
            Path(folder) / "others.csv", by="LiteRT", keys=[one.key for one in files]
        )
        measured = time_files(files, times, time_by_litert, num_rounds=_NUM_ROUNDS)
    by_key = dict(zip([one.key for one in files], measured, strict=True))
    print(f"Load of this machine: {os.getloadavg()[0]:.1f}; {found.agreement}")
    for what, networks in sets.items():
        yield from calibration_bars(
            what, networks, [by_key[one.file.key] for one in networks], target
        )


def calibration_bars(
    what: str, networks: Sequence[Timeable], measured: Sequence[float], target: Target
) -> Iterator[Bar]:
    """Yields the bars of some networks; prints those that are far off.

    Args:
      what: What the networks are.
      networks: Them.
      measured: Milliseconds of each.
      target: The calibrated target.
    """
    modelled = [
        estimate(one.workload, one.policy, target).latency_ms for one in networks
    ]
    errors = np.array(modelled) / np.array(measured) - 1.0
    for one, error, milliseconds in zip(networks, errors, measured, strict=True):
        if abs(error) > 0.2:
            print(f"  {one.file.name}: {100 * error:+.0f} % of {milliseconds:.4g} ms")
    agreement = Agreement.of(modelled, measured)
    title = f"from {_NUM_FILES} timed files, {len(networks)} {what}"
    yield Bar(
        name=f"rank correlation {title}",
        figure=f"{agreement.spearman:.3f}",
        limit=f"at least {_LEAST_SPEARMAN}",
        held=agreement.spearman >= _LEAST_SPEARMAN,
    )
    yield Bar(
        name=f"share within 20 % {title}",
        figure=f"{100 * agreement.share_within:.0f} % (median error "
        f"{100 * agreement.median_error:.0f} %)",
        limit=f"at least {100 * _LEAST_SHARE:.0f} %",
        held=agreement.share_within >= _LEAST_SHARE,
    )


def _random(seed: int, number: int) -> Iterator[Timeable]:
    drawn = random_networks(seed=seed, num_networks=number)
    for place, (artifact, policy, content) in enumerate(
        tqdm(drawn, total=number, unit="network")
    ):
        yield Timeable(
            file=TimedFile(name=f"random_{place}", content=content),
            workload=artifact.workload,
            policy=policy,
        )


def _of_the_zoo(names: Iterable[str], seed: int) -> Iterator[Timeable]:
    """Yields networks of the zoo as quantized, neither trained nor compared."""
    for name in tqdm(names, unit="network"):
        keras.backend.clear_session()
        keras.utils.set_random_seed(seed)
        network = NETWORKS[name]
        model = network.build(keras)
        samples = samples_for(model, _NUM_SAMPLES, network, seed=seed)
        quantized = matar.quantize_model(model, signed_inputs=network.low < 0)
        matar.calibrate(quantized, samples)
        artifact = matar.package(quantized, include_network=False)
        policy = artifact.space.named("w8a8")
        yield Timeable(
            file=TimedFile(name=name, content=ModelBuilder(artifact).build(policy)),
            workload=artifact.workload,
            policy=policy,
        )
