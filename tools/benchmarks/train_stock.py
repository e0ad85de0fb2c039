"""8-bit networks by TensorFlow's own tools, to compare with those of a recipe.

Writes `ptq.tflite`, the float network after post-training quantization, and
`qat.tflite`, the same after tfmot's quantization-aware training, with the epochs and
rates of the recipe's multi-bitwidth training. Prints their accuracy on LiteRT.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given
from matar_tf.commands._program import main_of
from matar_tf.commands._training import float_network, load_recipe, training_data

if TYPE_CHECKING:
    from absl.flags import FlagValues

_NUM_REPRESENTATIVE = 512


def _define(values: FlagValues) -> None:
    _flags.recipe(values)
    _flags.output(values, "Folder to write to; it must be new.")
    _flags.data(values, otherwise="; default the recipe's")
    _flags.seed(values, "everything random")
    _flags.float_network(values)


def _run(given: Given) -> int:
    """Trains, converts, writes, measures."""
    from matar_tf.errors import ExportError
    from matar_tf.io.files import check_parent

    config = load_recipe(given.recipe)
    output = Path(given.output)
    if output.exists():
        raise ExportError(
            f"Expected a new folder as --output, but {output} exists; choose another."
        )
    check_parent(output, ExportError)
    if config.float_schedule is None:
        raise ExportError(
            f"Expected a recipe that trains a float network, got {config.name!r}, "
            "which starts from scratch; leave its variant out."
        )
    data = training_data(config, given.data)

    from matar_tf.io.files import write_atomically
    from matar_tf.keras import train_float
    from matar_tf.keras._compat import tfmot
    from matar_tf.tflite.evaluate import evaluate_model
    from tools.benchmarks.stock import convert_stock

    network = float_network(given.float, config, data, seed=given.seed)
    stock = train_float(
        lambda *_: tfmot.quantization.keras.quantize_model(network),
        data,
        config.multi_bit_schedule,
        seed=given.seed,
    )
    contents = {
        "ptq": convert_stock(
            network, representative=data.training()[0][:_NUM_REPRESENTATIVE]
        ),
        "qat": convert_stock(stock),
    }
    output.mkdir()
    print(f"\nAccuracy on {len(data.x_test)} samples of {data.name}, LiteRT kernels:")
    for name, content in contents.items():
        write_atomically(output / f"{name}.tflite", content)
        found = evaluate_model(content, data, metrics=["accuracy"])
        print(f"  {name}  {found['accuracy']:.2%}")
    return 0


COMMAND: Final = Command(
    text=__doc__, define=_define, run=_run, required=("recipe", "output")
)

if __name__ == "__main__":
    main_of(COMMAND, "tools/benchmarks/train_stock.py")
