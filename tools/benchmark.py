"""Measures what the project claims, side by side in one run; prints each bar.

Exit status 1 if a bar falls short. ``core``: the integer core, on an artifact of
MLPerf Tiny's ResNet-8 and CIFAR-10 images.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.common import reports_errors, run

_ARTIFACT = flags.DEFINE_string(
    "artifact", None, "Artifact with its Keras network: directory or .matar file."
)
_DATA = flags.DEFINE_string("data", "digits", "Data that the artifact was trained on.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the policies.", lower_bound=0)
_POLICIES = flags.DEFINE_integer(
    "policies", 100, "Policies compared with the converter.", lower_bound=3
)
flags.mark_flags_as_required(["artifact"])

_SUITES = ("core",)


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Runs the suite that is named; prints one line per bar."""
    from matar_tf.errors import MatarError, did_you_mean

    if len(argv) != 2 or argv[1] not in _SUITES:
        raise MatarError(
            f"Expected the name of a suite, got {list(argv[1:])}. "
            f"{did_you_mean(' '.join(argv[1:]), _SUITES)}"
        )
    from tools.benchmark_core import measure_core

    all_held = True
    for bar in measure_core(
        _ARTIFACT.value, _DATA.value, seed=_SEED.value, num_policies=_POLICIES.value
    ):
        all_held &= bar.held
        verdict = "held" if bar.held else "falls short"
        print(f"{verdict:12s} {bar.name}: {bar.figure} (bar: {bar.limit})", flush=True)
    return 0 if all_held else 1


if __name__ == "__main__":
    run(main)
