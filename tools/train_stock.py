"""8-bit networks by TensorFlow's own tools, to compare with those of a recipe.

Writes `ptq.tflite`, the float network after post-training quantization, and
`qat.tflite`, the same after tfmot's quantization-aware training, with the epochs and
rates of the recipe's multi-bitwidth training. Prints their accuracy on LiteRT.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.common import (
    check_flags_only,
    float_network,
    reports_errors,
    run,
    training_data,
)

_RECIPE = flags.DEFINE_string("recipe", None, "Name of a recipe: cifar10_resnet8.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to; it must be new.")
_DATA = flags.DEFINE_string(
    "data",
    None,
    "'digits', a path.npz, or package.module:function; default the recipe's.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything random.", lower_bound=0)
_FLOAT = flags.DEFINE_string(
    "float", None, "A trained float network (.h5) to start from; default: train one."
)
flags.mark_flags_as_required(["recipe", "output"])

_NUM_REPRESENTATIVE = 512


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Trains, converts, writes, measures."""
    check_flags_only(argv)
    from matar_tf.errors import ExportError
    from recipes.common import load_recipe

    config = load_recipe(_RECIPE.value)
    output = Path(_OUTPUT.value)
    if output.exists():
        raise ExportError(
            f"Expected a new folder as --output, but {output} exists; choose another."
        )
    if config.float_schedule is None:
        raise ExportError(
            f"Expected a recipe that trains a float network, got {config.name!r}, "
            "which starts from scratch; leave its variant out."
        )
    data = training_data(config, _DATA.value)

    from matar_tf.io.files import write_atomically
    from matar_tf.keras import train_float
    from matar_tf.keras._compat import tfmot
    from matar_tf.tflite.evaluate import evaluate_file
    from tools.stock import convert_stock

    network = float_network(_FLOAT.value, config, data, seed=_SEED.value)
    stock = train_float(
        lambda *_: tfmot.quantization.keras.quantize_model(network),
        data,
        config.multi_bit_schedule,
        seed=_SEED.value,
    )
    contents = {
        "ptq": convert_stock(
            network, representative=data.training()[0][:_NUM_REPRESENTATIVE]
        ),
        "qat": convert_stock(stock),
    }
    output.mkdir(parents=True)
    print(f"\nAccuracy on {len(data.x_test)} samples of {data.name}, LiteRT kernels:")
    for name, content in contents.items():
        write_atomically(output / f"{name}.tflite", content)
        found = evaluate_file(content, data.x_test, data.y_test, metrics=["accuracy"])
        print(f"  {name}  {found['accuracy']:.2%}")
    return 0


if __name__ == "__main__":
    run(main)
