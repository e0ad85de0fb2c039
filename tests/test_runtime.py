import importlib.util
import sys

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits
from fixtures.graphs import (
    TYPES,
    add_operator,
    add_tensor,
    graph_of,
    multiplication,
    options_of,
)
from fixtures.paths import TARGETS
from fixtures.processes import predict_alone

from matar_tf.data import Data
from matar_tf.errors import DataError, ExportError, TargetError
from matar_tf.named_arrays import num_rows
from matar_tf.targets import load_target
from matar_tf.targets.fields import MAX_THREADS as MAX_THREADS_OF_TARGETS
from matar_tf.tflite import runtime
from matar_tf.tflite._memory import bytes_of_sample, products_of_sample
from matar_tf.tflite._schema import parse_model, write_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.evaluate import evaluate_model
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
        assert Runner(contents["w8a8"]).input_shapes == {"input": (8, 8, 1)}


def padded(*, pooled):
    """Pads one value to 100 x 100: 40 kB in float32, 10 kB in int8."""
    model = graph_of("PAD", (1, 1, 1, 1), (1, 100, 100, 1))
    sides = np.array([[0, 0], [0, 99], [0, 99], [0, 0]], np.int32)
    setting = add_tensor(model, (4, 2), TYPES.INT32, scale=(), values=sides)
    model.subgraphs[0].operators[1].inputs = [1, setting]
    last = 2
    if pooled:
        last = add_tensor(model, (1, 1))
        axes = np.array([1, 2], np.int32)
        axes = add_tensor(model, (2,), TYPES.INT32, scale=(), values=axes)
        options = options_of("ReducerOptions", keepDims=False)
        add_operator(model, "MEAN", [2, axes], last, options)
    output = add_tensor(model, model.subgraphs[0].tensors[last].shape, 0, scale=())
    add_operator(model, "DEQUANTIZE", [last], output)
    model.subgraphs[0].outputs = [output]
    return model


class TestMemory:
    def test_a_sample_takes_what_is_kept_at_a_time(self):
        # The input and its int8 form, then that and the padded one, then it and the
        # float outputs.
        assert bytes_of_sample(padded(pooled=False)) == 10_000 + 40_000
        # The padded one and the mean.
        assert bytes_of_sample(padded(pooled=True)) == 10_000 + 1

    def test_what_a_later_operator_reads_is_kept(self):
        options = options_of("AddOptions")
        model = graph_of("RELU", (1, 100), (1, 100))
        last = add_tensor(model, (1, 100))
        add_operator(model, "ADD", [1, 2], last, options)
        model.subgraphs[0].outputs = [last]
        # 400 and 100 in QUANTIZE, 100 and 100 in RELU, 300 in ADD.
        assert bytes_of_sample(model) == 500
        model.subgraphs[0].tensors[0].shape = np.array([1, 1], np.int32)
        assert bytes_of_sample(model) == 300

    def test_products_of_a_convolution(self):
        # 6 places of 2 channels, each of 9 x 4 products.
        model = multiplication(
            "CONV_2D", (1, 2, 3, 4), (2, 3, 3, 4), (1, 2, 3, 2), None
        )
        assert products_of_sample(model) == 6 * 2 * 36

    def test_digits_run_64_at_a_time(self, contents):
        # 64 floats and their int8 form; 64 x 8 channels of 3 tensors at most.
        assert 320 <= bytes_of_sample(parse_model(contents["w8a8"])) <= 4000

    @pytest.mark.parametrize(("budget", "expected"), [(50_000, 4), (20_003, 2), (1, 1)])
    def test_as_many_samples_as_fit_run_at_a_time(self, budget, expected, monkeypatch):
        monkeypatch.setattr(runtime, "_BATCH_BYTES", budget)
        runner = Runner(write_model(padded(pooled=True)))
        sizes: list[int] = []
        invoke = runner._invoke
        monkeypatch.setattr(
            runner,
            "_invoke",
            lambda batch: (sizes.append(num_rows(batch)), invoke(batch))[1],
        )
        samples = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1) * 5000
        found = runner.predict(samples)
        assert max(sizes) == expected
        assert sum(sizes) == 5
        monkeypatch.undo()
        np.testing.assert_array_equal(
            Runner(write_model(padded(pooled=True))).predict(samples), found
        )

    @pytest.mark.parametrize(("count", "fits"), [(5, True), (6, False)])
    def test_outputs_of_all_samples_are_limited(self, count, fits, monkeypatch):
        monkeypatch.setattr(runtime, "_MAX_OUTPUT_BYTES", 5 * 40_000)
        runner = Runner(write_model(padded(pooled=False)))
        samples = np.zeros((count, 1, 1, 1), np.float32)
        if fits:
            assert runner.predict(samples).shape == (count, 100, 100, 1)
        else:
            with pytest.raises(ExportError, match="at most 200000 bytes in all"):
                runner.predict(samples)

    def test_outputs_that_no_label_fits_are_not_made(self, monkeypatch):
        data = Data(x_test=np.zeros((2, 1, 1, 1), np.float32), y_test=np.zeros(2, int))
        monkeypatch.setattr(Runner, "predict", None)
        with pytest.raises(DataError, match="2 x 100 x 100 integer labels"):
            evaluate_model(write_model(padded(pooled=False)), data)


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
