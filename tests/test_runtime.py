import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from digits_net import digits_artifact, few_digits

from matar_tf.errors import DataError, ExportError, TargetError
from matar_tf.keras._compat import keras, tf
from matar_tf.targets import load_target
from matar_tf.targets.fields import MAX_THREADS as MAX_THREADS_OF_TARGETS
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import MAX_THREADS, RUNTIMES, Runner

SAMPLES = few_digits().x_test

# Runs a file in a process of its own, as a device's program would.
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from matar_tf.tflite.runtime import Runner
model, runtime, samples, outputs = sys.argv[1:]
runner = Runner(Path(model).read_bytes(), runtime=runtime)
np.save(outputs, runner.predict(np.load(samples)))
if runtime != "tensorflow" and "tensorflow" in sys.modules:
    sys.exit("TensorFlow was imported")
"""


@pytest.fixture(scope="module")
def contents():
    artifact = digits_artifact()
    builder = ModelBuilder(artifact)
    names = ("w8a8", "w4a4")
    return {name: builder.build(artifact.space.named(name)) for name in names}


def convert(model) -> bytes:
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


class TestLitert:
    def test_outputs_are_logits_that_know_the_digits(self, contents):
        outputs = Runner(contents["w8a8"]).predict(SAMPLES)
        assert outputs.shape == (200, 10)
        assert outputs.dtype == np.float32
        assert np.mean(outputs.argmax(1) == few_digits().y_test) > 0.85

    @pytest.mark.parametrize("batch_size", [1, 7, 64, 200, 1000])
    def test_outputs_do_not_depend_on_the_batch_size(self, contents, batch_size):
        expected = np.concatenate(
            [Runner(contents["w4a4"]).predict(SAMPLES[i : i + 1]) for i in range(20)]
        )
        runner = Runner(contents["w4a4"])
        outputs = runner.predict(SAMPLES, batch_size=batch_size)
        np.testing.assert_array_equal(outputs[:20], expected)
        # The runner is as good as new.
        np.testing.assert_array_equal(runner.predict(SAMPLES[:3]), expected[:3])

    def test_outputs_do_not_depend_on_threads_nor_on_the_memory_layout(self, contents):
        expected = Runner(contents["w4a4"]).predict(SAMPLES)
        runner = Runner(contents["w4a4"], num_threads=2)
        doubles = np.asfortranarray(SAMPLES.astype(np.float64))
        np.testing.assert_array_equal(runner.predict(doubles), expected)

    def test_earlier_outputs_are_not_overwritten(self, contents):
        runner = Runner(contents["w8a8"])
        first = runner.predict(SAMPLES[:1])
        kept = first.copy()
        runner.predict(SAMPLES[1:2])
        np.testing.assert_array_equal(first, kept)

    def test_input_shape_is_that_of_one_sample(self, contents):
        assert Runner(contents["w8a8"]).input_shape == (8, 8, 1)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["tflite_runtime", "tensorflow"])
def test_other_runtimes_agree_with_litert(runtime, contents, tmp_path):
    if importlib.util.find_spec(RUNTIMES[runtime].partition(".")[0]) is None:
        pytest.skip(f"{runtime} is not installed")
    model, samples, outputs = (tmp_path / n for n in ("m.tflite", "x.npy", "y.npy"))
    model.write_bytes(contents["w8a8"])
    np.save(samples, SAMPLES)
    command = [sys.executable, "-c", PROGRAM, model, runtime, samples, outputs]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        list(map(str, command)), cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = Runner(contents["w8a8"]).predict(SAMPLES), np.load(outputs)
    assert np.mean(ours.argmax(1) == theirs.argmax(1)) >= 0.97


class TestErrors:
    def test_unknown_runtime(self, contents):
        with pytest.raises(ExportError, match="Did you mean 'litert'"):
            Runner(contents["w8a8"], runtime="liteRT")

    def test_runtime_that_is_not_installed(self, contents, monkeypatch):
        monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
        with pytest.raises(ExportError, match="'litert' is not installed"):
            Runner(contents["w8a8"])

    def test_tflite_runtime_after_tensorflow(self, contents):
        with pytest.raises(ExportError, match="a process of its own"):
            Runner(contents["w8a8"], runtime="tflite_runtime")

    @pytest.mark.parametrize("kept", [0, 3, 8, 100, -1000])
    def test_truncated_file(self, contents, kept):
        with pytest.raises(ExportError, match="refuses the model"):
            Runner(contents["w8a8"][:kept])

    def test_file_of_another_kind(self):
        with pytest.raises(ExportError, match="refuses the model"):
            Runner(b"PK\x03\x04" + bytes(1000))

    def test_file_with_two_inputs(self):
        inputs = [keras.layers.Input((2,)), keras.layers.Input((2,))]
        model = keras.Model(inputs, keras.layers.Add()(inputs))
        with pytest.raises(ExportError, match="one float32 input"):
            Runner(convert(model))

    def test_file_with_another_input_type(self):
        inputs = keras.layers.Input((2,), dtype=tf.int32)
        model = keras.Model(inputs, keras.layers.Add()([inputs, inputs]))
        with pytest.raises(ExportError, match="int32"):
            Runner(convert(model))

    @pytest.mark.parametrize(
        "shape", [(2, 8, 8), (2, 8, 8, 3), (8, 8, 1), (0, 8, 8, 1)]
    )
    def test_samples_of_another_shape(self, contents, shape):
        with pytest.raises(DataError, match="'n', 8, 8, 1"):
            Runner(contents["w8a8"]).predict(np.zeros(shape, np.float32))

    def test_batch_size_below_one(self, contents):
        with pytest.raises(DataError, match="batch size"):
            Runner(contents["w8a8"]).predict(SAMPLES, batch_size=0)


class TestThreads:
    def test_as_many_as_are_allowed_run(self, contents):
        runner = Runner(contents["w8a8"], num_threads=MAX_THREADS)
        expected = Runner(contents["w8a8"]).predict(SAMPLES[:2])
        np.testing.assert_array_equal(runner.predict(SAMPLES[:2]), expected)

    @pytest.mark.parametrize("num_threads", [0, MAX_THREADS + 1, 99_999_999_999])
    def test_others_are_refused(self, contents, num_threads):
        with pytest.raises(ExportError, match=rf"1 to 1024 .*, got {num_threads}\."):
            Runner(contents["w8a8"], num_threads=num_threads)

    @pytest.mark.parametrize("num_threads", [0, 1, MAX_THREADS, MAX_THREADS + 1])
    def test_a_target_has_as_many(self, num_threads, tmp_path):
        assert MAX_THREADS_OF_TARGETS == MAX_THREADS
        shipped = Path(__file__).parent.parent / "matar_tf/targets/data"
        text = (shipped / "host_litert.toml").read_text()
        path = tmp_path / "host.toml"
        path.write_text(
            text.replace("num_threads = 1\n", f"num_threads = {num_threads}\n")
        )
        if 1 <= num_threads <= MAX_THREADS:
            assert load_target(path).backend.num_threads == num_threads
        else:
            with pytest.raises(TargetError, match=r"backend\.num_threads: expected"):
                load_target(path)


def fixed_reshape(x):
    return tf.reshape(x, (1, 2, 2))


class TestForeignFiles:
    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (fixed_reshape, "takes 3 samples at a time, but the runtime"),
            (tf.reduce_sum, r"each of 3 samples, got outputs of shape \(\)"),
            (
                lambda x: tf.reduce_sum(x, 0),
                r"of 3 samples, got outputs of shape \(4,\)",
            ),
        ],
    )
    def test_without_one_row_for_each_sample(self, function, message):
        signature = tf.TensorSpec((1, 4), tf.float32)
        made = tf.function(function).get_concrete_function(signature)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([made])
        runner = Runner(converter.convert())
        with pytest.raises(ExportError, match=message):
            runner.predict(np.ones((3, 4), np.float32))
