import importlib.util
import sys

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits
from fixtures.paths import TARGETS
from fixtures.processes import predict_alone

from matar_tf.errors import DataError, ExportError, TargetError
from matar_tf.targets import load_target
from matar_tf.targets.fields import MAX_THREADS as MAX_THREADS_OF_TARGETS
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import MAX_THREADS, Runner

SAMPLES = few_digits().x_test


@pytest.fixture(scope="module")
def contents():
    artifact = digits_artifact()
    builder = ModelBuilder(artifact)
    names = ("w8a8", "w4a4")
    return {name: builder.build(artifact.space.named(name)) for name in names}


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
def test_tflite_runtime_agrees_with_litert(contents, tmp_path):
    if importlib.util.find_spec("tflite_runtime") is None:
        pytest.skip("tflite_runtime is not installed")
    ours = Runner(contents["w8a8"]).predict(SAMPLES)
    theirs = predict_alone(contents["w8a8"], SAMPLES, "tflite_runtime", tmp_path)
    assert np.mean(ours.argmax(1) == theirs.argmax(1)) >= 0.97


class TestErrors:
    def test_unknown_runtime(self, contents):
        with pytest.raises(ExportError, match="Did you mean 'litert'"):
            Runner(contents["w8a8"], runtime="liteRT")

    def test_runtime_that_is_not_installed(self, contents, monkeypatch):
        monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
        with pytest.raises(ExportError, match="'litert' is not installed"):
            Runner(contents["w8a8"])

    @pytest.mark.parametrize("kept", [0, 3, 8, 100, -1000])
    def test_truncated_file(self, contents, kept):
        with pytest.raises(ExportError, match=r"Expected a (whole )?TFLite model"):
            Runner(contents["w8a8"][:kept])

    def test_file_of_another_kind(self):
        with pytest.raises(ExportError, match="Expected a TFLite model"):
            Runner(b"PK\x03\x04" + bytes(1000))

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
        shipped = TARGETS
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
