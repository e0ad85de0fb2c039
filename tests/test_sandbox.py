"""Files that nobody has checked: the end of their interpreter is a sentence."""

from __future__ import annotations

import gc
import time

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits
from fixtures.graphs import TYPES, graph_of, options_of
from fixtures.programs import call, fails

from matar_tf.errors import ExportError
from matar_tf.named_arrays import num_rows
from matar_tf.tflite import _sandbox, runtime
from matar_tf.tflite._interpreters import load_interpreter
from matar_tf.tflite._sandbox import Sandbox
from matar_tf.tflite._schema import parse_model, quantization, write_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.evaluate import evaluate_model
from matar_tf.tflite.latency import profile_operators
from matar_tf.tflite.runtime import Runner, make_interpreter

SAMPLES = few_digits().x_test[:20]

# A child whose interpreter does something else.
_CHILD = """
import os, sys
sys.path[:] = sys.argv[2:]
from matar_tf.tflite import _sandbox, runtime
class Interpreter:
    def __init__(self, model_content, num_threads):
        {init}
    def allocate_tensors(self):
        {allocate}
_sandbox.load_interpreter = lambda runtime: Interpreter
_sandbox._SECONDS = 0.1
_sandbox.serve(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def content():
    artifact = digits_artifact()
    return ModelBuilder(artifact).build(artifact.space.named("w8a8"))


@pytest.fixture(scope="module")
def foreign(content):
    """The same network with steps of biases that nothing here writes."""
    model = parse_model(bytes(content))
    biases = [one for one in model.subgraphs[0].tensors if one.type == TYPES.INT32]
    for bias in biases:
        if bias.quantization.scale is not None:
            bias.quantization.scale = bias.quantization.scale * np.float32(1.004)
    return write_model(model)


@pytest.fixture(scope="module")
def deadly():
    """A sum whose factor is above 1, which TFLite ends the process for."""
    model = graph_of("ADD", (1, 4), (1, 4), options_of("AddOptions"), num_inputs=2)
    model.subgraphs[0].tensors[2].quantization = quantization([1e-7], [0], 0)
    return write_model(model)


class TestForeignFile:
    def test_outputs_are_those_of_an_interpreter_in_this_process(self, foreign):
        runner = Runner(foreign)
        assert "steps of input times kernel" in runner.sandbox_reason
        assert runner.input_shapes == {"input": (8, 8, 1)}
        interpreter = load_interpreter("litert")(model_content=foreign)
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, SAMPLES.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, SAMPLES)
        interpreter.invoke()
        expected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        np.testing.assert_array_equal(runner.predict(SAMPLES), expected)
        np.testing.assert_array_equal(runner.predict(SAMPLES[:1]), expected[:1])

    def test_our_own_runs_in_this_process(self, content):
        assert Runner(content).sandbox_reason is None
        assert Runner(bytes(content)).sandbox_reason is None

    def test_operators_that_are_not_known_in_integers_run(self):
        model = graph_of("ABS", (1, 4), (1, 4))
        runner = Runner(write_model(model))
        assert "operands in float in the ABS" in runner.sandbox_reason
        assert runner.predict(np.ones((3, 4), np.float32)).shape == (3, 4)

    def test_operators_of_elsewhere_do_not(self):
        model = graph_of("RELU", (1, 4), (1, 4))
        model.operatorCodes[-1].customCode = "FlexErf"
        with pytest.raises(ExportError, match=r"builtin operators .*FlexErf"):
            Runner(write_model(model))
        model = graph_of("CUSTOM", (1, 4), (1, 4))
        with pytest.raises(ExportError, match="builtin operators"):
            Runner(write_model(model))

    def test_its_operators_are_timed(self):
        model = graph_of("ABS", (1, 4), (1, 4))
        found = profile_operators(write_model(model), num_repeats=1)
        assert [one.operator for one in found] == ["QUANTIZE", "ABS"]

    def test_its_time_is_that_of_the_interpreter_alone(self, foreign):
        interpreter = make_interpreter(foreign, "litert", 1)
        start = time.perf_counter()
        interpreter.invoke()
        assert 0 < interpreter.invoke_seconds < time.perf_counter() - start

    def test_integer_outputs_are_measured_as_their_values(self, content):
        model = parse_model(bytes(content))
        graph = model.subgraphs[0]
        last = graph.operators.pop()  # DEQUANTIZE
        graph.outputs = [last.inputs[0]]
        model.signatureDefs = None
        data = few_digits()
        assert evaluate_model(write_model(model), data) == evaluate_model(content, data)

    def test_integer_inputs_are_fed_with_values(self):
        model = graph_of("RELU", (1, 4), (1, 4))
        samples = np.linspace(-1.0, 1.0, 20, dtype=np.float32).reshape(5, 4)
        expected = Runner(write_model(model)).predict(samples)
        graph = model.subgraphs[0]
        first = graph.operators.pop(0)  # QUANTIZE
        graph.inputs = [first.outputs[0]]
        found = Runner(write_model(model)).predict(samples)
        np.testing.assert_array_equal(found, expected)

    def test_one_without_metadata_is_refused_with_a_remedy(self, tmp_path, capsys):
        path = tmp_path / "other.tflite"
        path.write_bytes(write_model(graph_of("RELU", (1, 4), (1, 4))))
        for name, values in (("inspect", {"model": path}), ("verify", {"model": path})):
            assert "`matar evaluate` takes others" in fails(capsys, name, **values)

    def test_the_program_says_where_it_ran(self, foreign, tmp_path, capsys):
        path = tmp_path / "foreign.tflite"
        path.write_bytes(foreign)
        assert call("evaluate", model=path, data="digits") == 0
        text = capsys.readouterr().out
        assert "in a process of its own: expected a bias in steps" in text

    @pytest.mark.parametrize(
        ("budget", "sizes"),
        [(1 << 28, [1, 8, 8, 2]), (120, [1, 6, 6, 6]), (1, [1] * 19)],
    )
    def test_as_many_samples_as_fit_run_at_a_time(self, budget, sizes, monkeypatch):
        # A sample is 16 bytes of float32 and 4 of int8.
        monkeypatch.setattr(runtime, "_SANDBOX_BATCH_BYTES", budget)
        model = graph_of("ABS", (1, 4), (1, 4))
        runner = Runner(write_model(model))
        ran: list[int] = []
        invoke = runner._invoke
        monkeypatch.setattr(
            runner,
            "_invoke",
            lambda batch: (ran.append(num_rows(batch)), invoke(batch))[1],
        )
        assert runner.predict(np.ones((19, 4), np.float32)).shape == (19, 4)
        assert ran == sizes

    def test_the_child_ends_with_its_interpreter(self, foreign):
        interpreter = make_interpreter(foreign, "litert", 1)
        process = interpreter._process
        assert process.poll() is None
        del interpreter
        gc.collect()
        assert process.poll() is not None


class TestEnd:
    def test_an_abort(self, deadly):
        with pytest.raises(ExportError, match=r"SIGABRT .* expected steps below"):
            Runner(deadly)

    def test_the_program_ends_with_status_1(self, deadly, tmp_path, capsys):
        path = tmp_path / "deadly.tflite"
        path.write_bytes(deadly)
        message = fails(capsys, "evaluate", model=path, data="digits")
        assert "was ended by SIGABRT in allocate_tensors" in message

    @pytest.mark.parametrize(
        ("init", "allocate", "message"),
        [
            ("pass", "while True: pass", "ran out of time in allocate_tensors"),
            ("os.kill(os.getpid(), 11)", "pass", "was ended by SIGSEGV in open"),
            ("pass", "os._exit(0)", "stopped answering in allocate_tensors"),
            ("pass", "bytearray(1 << 30)", "the model: it takes too much mem"),
            ("pass", "raise RuntimeError('no\\nop.')", "refuses the model: no op;"),
            (
                "pass",
                "os.write(int(sys.argv[1]), b'x' * 64)",
                "stopped answ|was killed",
            ),
        ],
    )
    def test_of_a_child_is_a_sentence(self, init, allocate, message, monkeypatch):
        child = _CHILD.format(init=init, allocate=allocate)
        monkeypatch.setattr(_sandbox, "_START", child)
        start = time.monotonic()
        with pytest.raises(ExportError, match=message) as caught:
            Sandbox(b"", "litert", 1, reason="expected one, got another")
        assert time.monotonic() - start < 20
        assert "expected one, got another" in str(caught.value)

    def test_of_one_sample_has_no_longer_than_ten_times_the_slowest(self):
        worker = _sandbox._Worker()
        limits: list[float] = []
        worker._interpreter = type(
            "Interpreter", (), {"invoke": lambda self: time.sleep(0)}
        )()
        worker._seconds, worker._num_samples, worker._num_threads = 2.0, 3, 2
        limit, _sandbox.limit_time = _sandbox.limit_time, limits.append
        try:
            worker._invoke()
        finally:
            _sandbox.limit_time = limit
        assert limits == [10 * 2.0 * 3 * 2]


def test_float_operators_that_are_checked_run_in_this_process():
    options = options_of("AddOptions")
    model = graph_of("ADD", (1, 4), (1, 4), options, num_inputs=2)
    model.subgraphs[0].operators[1].inputs = [0, 0]
    model.subgraphs[0].tensors[2].type = 0
    model.subgraphs[0].tensors[2].quantization = None
    runner = Runner(write_model(model))
    assert runner.sandbox_reason is None
    ones = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(runner.predict(ones), 2 * ones)
