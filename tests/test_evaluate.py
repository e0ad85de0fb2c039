import contextlib
import functools
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits
from fixtures.paths import ROOT

from matar_tf.errors import DataError, ExportError, MatarError, PolicyError
from matar_tf.policy import Policy
from matar_tf.tflite._schema import COMPUTE_OPS, op_name, parse_model, write_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import outputs_of
from matar_tf.tflite.evaluate import (
    ParallelEvaluator,
    PolicyEvaluator,
)
from matar_tf.tflite.fitting_data import check_data, check_labels
from matar_tf.tflite.inspect import inspect_model
from matar_tf.tflite.metadata import add_metadata
from matar_tf.tflite.metrics import (
    accuracy,
    argmax_agreement,
    compute_metrics,
    cross_entropy,
    get_metrics,
    negative_log_likelihood,
    own_metric_digests,
    top_k_accuracy,
)
from matar_tf.tflite.runtime import Runner

DATA = few_digits().head(60)
OUTPUTS = np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 0.5], [2.0, 1.0, 0.0]], np.float32)
NO_POLICY = {"schema_version": 1, "weights": {}, "activations": {}}


class TestMetrics:
    @pytest.mark.parametrize(
        ("labels", "expected"), [([1, 2, 0], 1.0), ([1, 0, 0], 2 / 3), ([0, 0, 1], 0.0)]
    )
    def test_accuracy(self, labels, expected):
        assert accuracy(OUTPUTS, np.array(labels)) == pytest.approx(expected)

    def test_cross_entropy_of_equal_logits_is_that_of_a_guess(self):
        labels = np.array([0, 3])
        assert cross_entropy(np.zeros((2, 4)), labels) == pytest.approx(np.log(4))

    def test_cross_entropy(self):
        # -log softmax: [1, 3, 2] at 1, and [2, 1, 0] at 2.
        first = np.log(np.exp(1) + np.exp(3) + np.exp(2)) - 3
        second = np.log(np.exp(2) + np.exp(1) + np.exp(0)) - 0
        value = cross_entropy(OUTPUTS[[0, 2]], np.array([1, 2]))
        assert value == pytest.approx((first + second) / 2, rel=1e-12)

    def test_cross_entropy_of_large_logits_is_finite(self):
        outputs = np.array([[1e4, 0.0], [0.0, 1e4]], np.float32)
        assert cross_entropy(outputs, np.array([0, 0])) == pytest.approx(5e3)

    def test_negative_log_likelihood(self):
        outputs = np.array([[0.5, 0.25, 0.25], [0.0, 0.9, 0.1]], np.float32)
        value = negative_log_likelihood(outputs, np.array([1, 1]))
        assert value == pytest.approx((np.log(4) - np.log(0.9)) / 2, rel=1e-6)

    def test_negative_log_likelihood_of_an_impossible_label_is_finite(self):
        outputs = np.array([[1.0, 0.0]], np.float32)
        value = negative_log_likelihood(outputs, np.array([1]))
        assert value == pytest.approx(7 * np.log(10))

    def test_the_two_losses_agree_through_a_softmax(self):
        powers = np.exp(OUTPUTS.astype(np.float64))
        probabilities = powers / powers.sum(axis=-1, keepdims=True)
        labels = np.array([2, 0, 1])
        assert negative_log_likelihood(probabilities, labels) == pytest.approx(
            cross_entropy(OUTPUTS, labels)
        )

    @pytest.mark.parametrize(("k", "expected"), [(1, 1 / 3), (2, 2 / 3), (3, 1.0)])
    def test_top_k_accuracy(self, k, expected):
        # Ranks of the labels: first, second (a tie goes to the lower index), third.
        labels = np.array([1, 0, 2])
        assert top_k_accuracy(OUTPUTS, labels, k=k) == pytest.approx(expected)

    def test_top_1_is_accuracy_with_ties_too(self):
        rng = np.random.default_rng(0)
        outputs = rng.integers(0, 3, (500, 4)).astype(np.float32)
        labels = rng.integers(0, 4, 500)
        assert top_k_accuracy(outputs, labels, k=1) == accuracy(outputs, labels)

    def test_argmax_agreement(self):
        assert argmax_agreement(OUTPUTS, OUTPUTS * 2 + 1) == 1.0
        assert argmax_agreement(OUTPUTS, -OUTPUTS) == 0.0
        assert argmax_agreement(OUTPUTS, OUTPUTS[[0, 0, 2]]) == pytest.approx(2 / 3)


def spread(outputs, labels):
    """A metric of the user's own."""
    return outputs.max() - labels.mean()


class TestGetMetrics:
    def test_names(self):
        names = ("accuracy", "loss", "top_2_accuracy", "test_evaluate:spread")
        metrics = get_metrics(names, probabilities=False)
        assert list(metrics) == ["accuracy", "loss", "top_2_accuracy", "spread"]
        labels = np.array([1, 0, 2])
        assert metrics["top_2_accuracy"](OUTPUTS, labels) == pytest.approx(2 / 3)
        assert metrics["spread"](OUTPUTS, labels) == pytest.approx(2.0)
        assert metrics["loss"](OUTPUTS, labels) == cross_entropy(OUTPUTS, labels)

    def test_the_loss_of_probabilities(self):
        metrics = get_metrics(["loss"], probabilities=True)
        labels = np.array([1, 2, 0])
        expected = negative_log_likelihood(OUTPUTS, labels)
        assert metrics["loss"](OUTPUTS, labels) == expected

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["acuracy"], "Did you mean 'accuracy'"),
            (["top_0_accuracy"], "top_K_accuracy"),
            (["numpy:no_such"], "no_such"),
            (["loss", "somewhere:loss"], "No module named"),
            (["loss", "loss"], "loss twice"),
        ],
    )
    def test_refuses(self, names, message):
        with pytest.raises(DataError, match=message):
            get_metrics(names, probabilities=False)


@pytest.fixture(scope="module")
def content():
    artifact = digits_artifact()
    return ModelBuilder(artifact).build(artifact.space.named("w8a8"))


class TestForeignFiles:
    @pytest.mark.parametrize("size", [0, 8, 10, 0.1, 0.5, 0.9])
    def test_a_truncated_file(self, content, size):
        size = size if size > 1 else int(size * len(content))
        with pytest.raises(ExportError, match="Expected a"):
            parse_model(content[:size])

    def test_damage_is_never_a_traceback(self, content):
        rng = np.random.default_rng(0)
        for _ in range(50):
            damaged = bytearray(content)
            for place in rng.integers(8, len(content), 30):
                damaged[place] = rng.integers(256)
            with contextlib.suppress(ExportError):
                outputs_of(bytes(damaged))
            with contextlib.suppress(ExportError):
                inspect_model(bytes(damaged))

    @pytest.mark.parametrize(
        "change",
        [
            lambda model: setattr(model.subgraphs[0].operators[0], "opcodeIndex", 99),
            lambda model: setattr(model.subgraphs[0].operators[0], "inputs", [9999]),
            lambda model: setattr(model.subgraphs[0].operators[0], "outputs", [-1]),
            lambda model: setattr(model.subgraphs[0].tensors[0], "buffer", 9999),
            lambda model: setattr(model.subgraphs[0], "outputs", [9999]),
            lambda model: setattr(model.metadata[0], "buffer", 9999),
        ],
    )
    def test_an_index_outside(self, content, change):
        model = parse_model(content)
        change(model)
        with pytest.raises(ExportError, match="points outside"):
            parse_model(write_model(model))

    def test_a_kernel_that_is_left_out(self, content):
        model = parse_model(content)
        for operator in model.subgraphs[0].operators:
            if op_name(model, operator) in COMPUTE_OPS:
                operator.inputs[1] = -1
        with pytest.raises(ExportError, match="a stored kernel"):
            inspect_model(write_model(model))

    def test_a_tensor_that_is_made_twice(self, content):
        model = parse_model(content)
        first, second = model.subgraphs[0].operators[:2]
        second.outputs = first.outputs
        with pytest.raises(ExportError, match="makes what another makes"):
            parse_model(write_model(model))

    @pytest.mark.parametrize(
        ("document", "message"),
        [
            ([1, 2], "a JSON object"),
            ({"kernels": {}}, "under 'policy'"),
            ({"policy": {"weights": {}}, "kernels": {}}, "no key 'activations'"),
            ({"policy": NO_POLICY, "kernels": {"a": []}}, "under 'kernels'"),
            ({"policy": NO_POLICY, "kernels": {}, "notes": [1]}, "under 'notes'"),
        ],
    )
    def test_malformed_metadata(self, content, document, message):
        model = parse_model(content)
        add_metadata(model, document)
        with pytest.raises(ExportError, match=message):
            inspect_model(write_model(model))


def some_policies():
    space = digits_artifact().space
    return [space.named(name) for name in ("w8a8", "w2a2", "w4a4", "w8a8", "w3a6")]


def make_evaluator():
    data = few_digits()
    return functools.partial(
        PolicyEvaluator, digits_artifact(), data.x_test, data.y_test
    )


class TestPolicyEvaluator:
    def test_measures_the_file_that_the_policy_ships_as(self):
        data, artifact = few_digits(), digits_artifact()
        policy = artifact.space.named("w3a4")
        outputs = Runner(ModelBuilder(artifact).build(policy)).predict(data.x_test)
        right = [
            row.argmax() == label
            for row, label in zip(outputs, data.y_test, strict=True)
        ]
        metrics = make_evaluator()()(policy)
        assert metrics["accuracy"] == pytest.approx(sum(right) / 200)
        assert metrics["loss"] == cross_entropy(outputs, data.y_test)
        assert set(metrics) == {"accuracy", "loss"}

    def test_policies_differ(self):
        evaluate = make_evaluator()()
        losses = [evaluate(policy)["loss"] for policy in some_policies()]
        assert losses[0] == losses[3]
        assert len(set(losses)) == 4

    def test_takes_metrics_of_the_users_own(self):
        evaluate = make_evaluator()(metrics=["test_evaluate:spread"])
        policy = some_policies()[0]
        content = ModelBuilder(digits_artifact()).build(policy)
        outputs = Runner(content).predict(few_digits().x_test)
        expected = spread(outputs, few_digits().y_test)
        assert evaluate(policy) == {"spread": pytest.approx(expected)}

    @pytest.mark.parametrize(
        "value", [math.nan, math.inf, "high", pytest.param(10**5000, id="huge")]
    )
    def test_refuses_what_is_no_figure(self, value):
        with pytest.raises(DataError, match=r"number from the metric 'mine', got"):
            compute_metrics({"mine": lambda outputs, labels: value}, None, None)

    def test_metrics_are_told_apart_by_their_modules(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(str(tmp_path))
        (tmp_path / "inner_metrics.py").write_text("def f(outputs, labels): return 1")
        outer = tmp_path / "outer_metrics.py"
        outer.write_text(
            "import functools\nfrom inner_metrics import f\ng = functools.partial(f)\n"
        )
        names = ["outer_metrics:f", "outer_metrics:g", "builtins:max", "accuracy"]
        before = own_metric_digests(names)
        assert [one.split()[0] for one in before] == sorted(names[:3])
        outer.write_text(outer.read_text() + "# changed\n")
        after = own_metric_digests(names)
        assert before[0] == after[0]
        assert not set(before[1:]) & set(after[1:])

    @pytest.mark.parametrize(
        ("count", "sentence"),
        [(0, r"samples of shape \[num_samples"), (3, "3 labels")],
    )
    def test_refuses_samples_without_labels(self, count, sentence):
        data = few_digits()
        with pytest.raises(DataError, match=sentence):
            PolicyEvaluator(digits_artifact(), data.x_test[:count], data.y_test[:2])

    def test_refuses_a_policy_of_another_network(self):
        with pytest.raises(PolicyError):
            make_evaluator()()(Policy(weights={"z": 8}, activations={}))


class BrokenEvaluator:
    """Ends its process as one that ran out of memory."""

    def __call__(self, policy):
        os._exit(9)


# Starts two measuring processes, names them, and waits to be killed.
ORPHANS = """
import sys, time, multiprocessing
from matar_tf.tflite.evaluate import ParallelEvaluator

class Evaluator:
    def __call__(self, policy):
        return {}

if __name__ == "__main__":
    with ParallelEvaluator(Evaluator, 2) as evaluate:
        list(evaluate([1, 2, 3, 4]))
        print(*[one.pid for one in multiprocessing.active_children()], flush=True)
        time.sleep(60)
"""


# A script without the guard that starting processes needs, with more to send to each
# than a pipe holds.
UNGUARDED = """
from functools import partial
from matar_tf.tflite.evaluate import ParallelEvaluator

with ParallelEvaluator(partial(dict, samples=bytes(1_000_000)), 2) as evaluate:
    list(evaluate([1, 2]))
"""


class TestParallelEvaluator:
    @pytest.mark.slow
    def test_two_processes_give_what_one_gives(self):
        policies = some_policies()
        with ParallelEvaluator(make_evaluator(), 1) as evaluate:
            alone = list(evaluate(policies))
        with ParallelEvaluator(make_evaluator(), 2) as evaluate:
            assert list(evaluate(iter(policies))) == alone
            # The processes serve call after call.
            assert list(evaluate(policies[:1])) == alone[:1]
        assert [policy for policy, _ in alone] == policies

    @pytest.mark.slow
    def test_an_error_of_one_policy_reaches_the_caller(self):
        other = Policy(weights={"z": 8}, activations={})
        with (
            ParallelEvaluator(make_evaluator(), 2) as evaluate,
            pytest.raises(PolicyError),
        ):
            list(evaluate([some_policies()[0], other]))

    def test_a_process_that_dies_is_an_error(self):
        with (
            ParallelEvaluator(BrokenEvaluator, 2) as evaluate,
            pytest.raises(MatarError, match="fewer jobs"),
        ):
            list(evaluate(some_policies()))

    def test_a_process_that_cannot_start_is_an_error(self, tmp_path):
        script = tmp_path / "script.py"
        script.write_text(UNGUARDED)
        root = str(ROOT)
        done = subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert "a script needs 'if __name__" in done.stderr
        assert "freeze_support" not in done.stderr  # of the processes themselves

    @pytest.mark.parametrize("num_jobs", [0, -1])
    def test_refuses_no_processes(self, num_jobs):
        with pytest.raises(MatarError, match="at least one process"):
            ParallelEvaluator(make_evaluator(), num_jobs)

    @pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
    def test_a_killed_parent_leaves_no_processes(self, tmp_path):
        script = tmp_path / "script.py"
        script.write_text(ORPHANS)
        root = str(ROOT)
        with subprocess.Popen(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONPATH": root},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as parent:
            assert parent.stdout is not None
            children = [int(pid) for pid in parent.stdout.readline().split()]
            parent.send_signal(signal.SIGKILL)
        assert len(children) == 2
        deadline = time.monotonic() + 10
        while any(map(is_alive, children)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_alive, children))


def is_alive(pid):
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        # A child that nobody waits for is not alive either.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


class TestData:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"x_test": DATA.x_test[:, :4], "x_train": None, "y_train": None},
                "samples of shape",
            ),
            ({"y_test": DATA.y_test + 1}, "labels in 0..9"),
            ({"y_test": DATA.y_test + 9}, "labels in 0..9"),
        ],
    )
    def test_refuses_what_does_not_fit(self, change, message):
        with pytest.raises(DataError, match=message):
            check_data(digits_artifact(), replace(DATA, **change))

    def test_a_map_of_outputs_takes_a_map_of_classes(self):
        with pytest.raises(DataError, match="an axis; reshape it to"):
            check_labels(DATA, ())
        for shape in ((4, 10), (4, 4, 10)):
            with pytest.raises(DataError, match="give the number of its class for"):
                check_labels(DATA, shape)
        check_labels(DATA, (10,))
        masks = np.zeros((len(DATA.x_test), 4, 4), int)
        check_labels(
            replace(DATA, y_test=masks, x_train=None, y_train=None), (4, 4, 10)
        )
