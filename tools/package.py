"""Packages a trained multi-bitwidth Keras model, saved as HDF5 or SavedModel."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.common import check_flags_only, command_line, reports_errors, run

_MODEL = flags.DEFINE_string("model", None, "Path of the saved model.")
_OUTPUT = flags.DEFINE_string("output", None, "Artifact to write.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace what stands at --output.")
flags.mark_flags_as_required(["model", "output"])


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Packages; prints the size of the policy space."""
    check_flags_only(argv)
    from matar_tf.artifact import check_free, write_artifact
    from matar_tf.errors import ModelError
    from matar_tf.run.settings import now

    check_free(_OUTPUT.value, overwrite=_OVERWRITE.value)
    if not Path(_MODEL.value).exists():
        raise ModelError(f"Expected a saved model at {_MODEL.value}, found nothing.")

    from matar_tf import keras

    # Losses and optimizers may be of the user's own, and are not needed.
    model = keras.load_model(_MODEL.value, compile=False)
    provenance = {
        "command": command_line(),
        "created": now(),
        "versions": keras.versions(),
    }
    artifact = keras.package(model, provenance=provenance)
    write_artifact(artifact, _OUTPUT.value, overwrite=_OVERWRITE.value)
    print(f"Wrote {_OUTPUT.value}: {artifact.space.num_policies:.3g} policies.")
    return 0


if __name__ == "__main__":
    run(main)
