import contextlib
import csv
import importlib.util
import sys
import types

import numpy as np
import pytest
from fixtures.digits import few_digits
from fixtures.digits_training import build_net

from matar_tf.errors import DataError, ModelError, PolicyError
from matar_tf.keras import (
    IndependentSampler,
    PolicyMetrics,
    PolicyRandomizer,
    UniformSampler,
    calibrate,
    evaluate_policies,
    get_policy,
    get_policy_space,
    keras,
    policy_space,
    quantize_model,
)
from matar_tf.keras._compat import tf
from matar_tf.policy import ALL_BITS
from matar_tf.samplers import draw_policies

BATCH = 16
X, Y = few_digits().x_test[: 4 * BATCH], few_digits().y_test[: 4 * BATCH]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make_model(*, calibrated=True, **compile_args):
    keras.utils.set_random_seed(0)
    model = quantize_model(build_net((8, 8, 1), 10))
    if calibrated:
        calibrate(model, X)
    model.compile(keras.optimizers.Adam(1e-3), LOSS, ["accuracy"], **compile_args)
    return model


@pytest.fixture(scope="module")
def model():
    """Trained on by most tests of this file: policies do not depend on weights."""
    return make_model()


def fit(model, *callbacks, x=X, y=Y, **fit_args):
    fit_args = {"epochs": 1, "verbose": 0, **fit_args}
    if y is not None:
        fit_args |= {"y": y, "batch_size": BATCH, "shuffle": False}
    return model.fit(x, callbacks=[*callbacks], **fit_args)


def policies_of(randomizer):
    return [policy for _, _, policy in randomizer.history]


class Recorder(keras.callbacks.Callback):
    """Writes down the policy that is in force at each event."""

    def __init__(self):
        super().__init__()
        self.events = []

    def on_train_batch_end(self, batch, logs=None):
        self.events.append(("train", get_policy(self.model)))

    def on_test_batch_end(self, batch, logs=None):
        self.events.append(("test", get_policy(self.model)))

    def of(self, kind):
        return [policy for event, policy in self.events if event == kind]


class TestPolicyRandomizer:
    def test_weights_that_are_restored_or_saved_are_under_the_fixed_policy(
        self, model, tmp_path
    ):
        fixed = get_policy_space(model).named("w4a4")
        path = tmp_path / "best.h5"
        fit(
            model,
            PolicyRandomizer(IndependentSampler(), evaluation_policy=fixed),
            keras.callbacks.ModelCheckpoint(str(path), monitor="loss"),
            keras.callbacks.EarlyStopping("loss", restore_best_weights=True),
            epochs=2,
        )
        assert get_policy(model) == fixed
        assert get_policy(keras.models.load_model(path)) == fixed

    @pytest.mark.parametrize(
        ("sampler", "seed", "message"),
        [("w4a4", 0, "'w4a4'"), (UniformSampler(), -1, "got -1")],
    )
    def test_refuses(self, sampler, seed, message):
        with pytest.raises(ModelError, match=message):
            PolicyRandomizer(sampler, seed=seed)

    def test_averaged_steps_begin_with_calibrated_ones(self):
        model = quantize_model(build_net((8, 8, 1), 10))
        model.compile(keras.optimizers.Adam(1e-3, use_ema=True), LOSS)
        with pytest.raises(ModelError, match=r"calibrated model .* with use_ema"):
            fit(model, PolicyRandomizer())
        calibrate(model, X)
        fit(model, PolicyRandomizer(), steps_per_epoch=1)

    def test_every_batch_is_trained_under_a_new_policy(self, model):
        randomizer, recorder = PolicyRandomizer(IndependentSampler()), Recorder()
        fit(model, randomizer, recorder, epochs=2)
        assert len(set(policies_of(randomizer))) == 8
        assert recorder.of("train") == policies_of(randomizer)
        places = [(epoch, batch) for epoch, batch, _ in randomizer.history]
        assert places == [(epoch, batch) for epoch in (0, 1) for batch in range(4)]

    def test_the_seed_alone_decides(self, model):
        def history(seed):
            randomizer = PolicyRandomizer(seed=seed)
            fit(model, randomizer)
            return policies_of(randomizer)

        assert history(1) == history(1)
        assert history(1) != history(2)

    def test_a_policy_is_the_samplers_draw_for_seed_epoch_and_batch(self, model):
        randomizer = PolicyRandomizer(IndependentSampler(), seed=7)
        fit(model, randomizer, initial_epoch=3, epochs=4)
        space = get_policy_space(model)
        assert policies_of(randomizer) == [
            draw_policies(space, IndependentSampler(), 1, (7, 3, batch))[0]
            for batch in range(4)
        ]

    def test_the_first_batch_of_an_uncalibrated_model_has_the_widest_policy(self):
        model = quantize_model(build_net((8, 8, 1), 10))
        model.compile(keras.optimizers.Adam(1e-3), LOSS)
        randomizer = PolicyRandomizer(UniformSampler(names=("w2a2",)))
        fit(model, randomizer, epochs=2)
        space = get_policy_space(model)
        expected = [space.widest(), *[space.named("w2a2")] * 7]
        assert policies_of(randomizer) == expected

    def test_the_sampler_is_used(self, model):
        randomizer = PolicyRandomizer(UniformSampler(names=("w3a5",)))
        fit(model, randomizer)
        assert set(policies_of(randomizer)) == {get_policy_space(model).named("w3a5")}

    def test_tf_data_gives_the_same_policies_as_arrays(self, model):
        arrays, dataset = PolicyRandomizer(), PolicyRandomizer()
        fit(model, arrays)
        batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)
        fit(model, dataset, x=batches, y=None)
        assert policies_of(arrays) == policies_of(dataset)

    @pytest.mark.parametrize(
        ("policy", "in_force"), [(None, "w8a8"), ("w4a6", "w4a6"), ("object", "w2a2")]
    )
    def test_validation_uses_the_evaluation_policy(self, model, policy, in_force):
        space = get_policy_space(model)
        if policy == "object":
            policy = space.named(in_force)
        randomizer = PolicyRandomizer(evaluation_policy=policy)
        recorder = Recorder()
        fit(model, randomizer, recorder, epochs=2, validation_data=(X, Y))
        assert set(recorder.of("test")) == {space.named(in_force)}
        # Training goes on with random policies after a validation.
        assert recorder.of("train") == policies_of(randomizer)
        assert len(set(policies_of(randomizer)[4:])) > 1
        assert get_policy(model) == space.named(in_force)

    def test_the_model_is_left_under_the_evaluation_policy(self, model):
        fit(model, PolicyRandomizer(evaluation_policy="w5a5"))
        assert get_policy(model) == get_policy_space(model).named("w5a5")

    def test_history_of_a_model_grows_and_that_of_another_is_dropped(self, model):
        randomizer = PolicyRandomizer()
        fit(model, randomizer)
        fit(model, randomizer)
        assert len(randomizer.history) == 8
        randomizer.set_model(make_model())
        assert randomizer.history == []

    def test_an_unknown_evaluation_policy_is_refused_before_training(self, model):
        randomizer = PolicyRandomizer(evaluation_policy="w9a9")
        with pytest.raises(PolicyError):
            fit(model, randomizer)
        assert randomizer.history == []

    def test_a_number_of_steps_that_keras_chooses_is_refused(self):
        with pytest.raises(ModelError, match="number as steps_per_execution"):
            fit(make_model(steps_per_execution="auto"), PolicyRandomizer())

    def test_a_float_model_is_refused(self):
        model = build_net((8, 8, 1), 10)
        model.compile("sgd", LOSS)
        with pytest.raises(ModelError, match="no MATAR quantizers"):
            fit(model, PolicyRandomizer())

    def test_without_a_model_it_says_so(self):
        with pytest.raises(ModelError, match="no model yet"):
            PolicyRandomizer().on_train_batch_begin(0)


class TestOneGraph:
    def test_fifty_policies_are_trained_by_one_trace(self):
        traces = []

        class Counted(keras.Model):
            def train_step(self, data):
                traces.append(1)  # runs when Python traces, not when the graph runs
                return super().train_step(data)

        keras.utils.set_random_seed(0)
        network = build_net((8, 8, 1), 10)
        space = policy_space(network)
        free = {
            kind: dict.fromkeys(getattr(space, kind), ALL_BITS)
            for kind in ("weights", "activations")
        }
        inner = quantize_model(network, space.with_choices(**free))
        calibrate(inner, X)
        model = Counted(inner.inputs, inner.outputs)
        model.compile(keras.optimizers.Adam(1e-3), LOSS)
        # Else the first call traces twice: once to create the optimizer's variables.
        model.optimizer.build(model.trainable_variables)
        randomizer = PolicyRandomizer(IndependentSampler())
        fit(model, randomizer, x=np.tile(X, (13, 1, 1, 1))[: 50 * BATCH],
            y=np.tile(Y, 13)[: 50 * BATCH])  # fmt: skip
        assert len(set(policies_of(randomizer))) == 50
        assert len(traces) == 1
        assert model.train_tf_function.experimental_get_tracing_count() == 1

    def test_the_policy_reaches_the_traced_graph(self, model):
        """Metrics of training differ between policies, at fixed weights."""
        losses = {}
        rate = model.optimizer.learning_rate.numpy()
        model.optimizer.learning_rate = 0.0
        for name in ("w8a8", "w2a2", "w8a8"):
            result = fit(model, PolicyRandomizer(UniformSampler(names=(name,))))
            losses.setdefault(name, []).append(result.history["loss"][0])
        model.optimizer.learning_rate = rate
        assert losses["w8a8"][0] == pytest.approx(losses["w8a8"][1], rel=1e-6)
        assert losses["w2a2"][0] != pytest.approx(losses["w8a8"][0], rel=1e-3)


class KilledError(Exception):
    pass


class KillAt(keras.callbacks.Callback):
    def __init__(self, epoch, batch):
        super().__init__()
        self._place, self._epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._epoch, batch) == self._place:
            raise KilledError


@pytest.mark.slow
def test_a_killed_and_restored_training_equals_one_that_was_not(tmp_path):
    """From its first batch on, which sets the steps of a model not calibrated."""
    whole, untouched = make_model(calibrated=False), PolicyRandomizer(seed=5)
    fit(whole, untouched, epochs=3)

    before = PolicyRandomizer(seed=5)
    backup = keras.callbacks.BackupAndRestore(str(tmp_path))
    with contextlib.suppress(KilledError):
        fit(make_model(calibrated=False), before, backup, KillAt(1, 2), epochs=3)
    assert before.history == untouched.history[:7]

    restored, after = make_model(calibrated=False), PolicyRandomizer(seed=5)
    backup = keras.callbacks.BackupAndRestore(str(tmp_path))
    fit(restored, after, backup, epochs=3)
    assert after.history == untouched.history[4:]
    for ours, theirs in zip(restored.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.fixture
def tensorboard_package(monkeypatch):
    """Stands in for the one function that Keras needs of it, if it is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        module = types.ModuleType("tensorboard.summary.v2")
        module.scalar = lambda name, data, step=None, **_: tf.summary.write(
            name, tf.cast(data, tf.float32), step
        )
        for name in ("tensorboard", "tensorboard.summary"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(sys.modules, "tensorboard.summary.v2", module)


def read_scalars(folder):
    """Returns the scalars of TensorBoard's event files, by tag."""
    scalars = {}
    for path in sorted(folder.glob("events*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                if value.HasField("tensor"):
                    scalars.setdefault(value.tag, []).append(
                        float(tf.make_ndarray(value.tensor))
                    )
    return scalars


class TestPolicyMetrics:
    @pytest.mark.usefixtures("tensorboard_package")
    def test_history_and_tensorboard_get_what_evaluate_gives(self, model, tmp_path):
        names = ("w8a8", "w4a4")
        board = keras.callbacks.TensorBoard(str(tmp_path), write_graph=False)
        metrics = PolicyMetrics((X, Y), names, batch_size=BATCH)
        history = fit(model, PolicyRandomizer(), metrics, board, epochs=2).history
        scalars = read_scalars(tmp_path / "validation")
        for name in names:
            for metric in ("loss", "accuracy"):
                values = history[f"val_{metric}/{name}"]
                assert len(values) == 2
                assert scalars[f"epoch_{metric}/{name}"] == pytest.approx(values)
        assert history["val_loss/w8a8"] != history["val_loss/w4a4"]
        rows = evaluate_policies(model, X, Y, names)
        for name in names:
            assert history[f"val_loss/{name}"][-1] == pytest.approx(rows[name]["loss"])

    def test_named_policies_and_data_sets(self, model):
        space = get_policy_space(model)
        policies = {"mine": space.named("w3a7"), "theirs": space.named("w8a8")}
        batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)
        history = fit(model, PolicyMetrics(batches, policies)).history
        assert {key for key in history if key.startswith("val_")} == {
            f"val_{metric}/{name}"
            for metric in ("loss", "accuracy")
            for name in ("mine", "theirs")
        }

    def test_leaves_the_policy_as_it_was(self, model):
        recorder = Recorder()
        randomizer = PolicyRandomizer()
        metrics = PolicyMetrics((X, Y), ("w2a2",))

        class After(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                recorder.events.append(("after", get_policy(self.model)))

        fit(model, recorder, metrics, After(), randomizer)
        assert recorder.of("after") == policies_of(randomizer)[-1:]

    def test_evaluates_every_so_many_epochs(self, model):
        metrics = PolicyMetrics((X, Y), ("w8a8",), every=2)
        history = fit(model, metrics, epochs=5).history
        measured = [not np.isnan(one) for one in history["val_accuracy/w8a8"]]
        assert measured == [False, True, False, True, False]
        assert len(history["val_loss/w8a8"]) == len(history["loss"]) == 5

    def test_a_logger_has_the_columns_from_the_first_epoch_on(self, model, tmp_path):
        metrics = PolicyMetrics((X, Y), ("w8a8", "w4a4"), every=2)
        logger = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
        history = fit(model, metrics, logger, epochs=3).history
        with (tmp_path / "log.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["val_accuracy/w4a4"] for row in rows] == [
            str(one) for one in history["val_accuracy/w4a4"]
        ]
        assert set(rows[0]) == {"epoch", *history}

    def test_early_stopping_can_watch_a_policy(self, model):
        stop = keras.callbacks.EarlyStopping(
            "val_accuracy/w4a4", min_delta=2.0, patience=1, mode="max"
        )
        history = fit(model, PolicyMetrics((X, Y), ("w4a4",)), stop, epochs=9).history
        assert len(history["loss"]) == 2

    def test_an_unknown_policy_is_refused_before_training(self, model):
        randomizer = PolicyRandomizer()
        with pytest.raises(PolicyError):
            fit(model, randomizer, PolicyMetrics((X, Y), ("w4a4", "w1a1")))
        assert randomizer.history == []

    @pytest.mark.parametrize("data", [X, [X, Y], (X,), (X, Y, Y)])
    def test_refuses_other_validation_data(self, data):
        with pytest.raises(DataError, match="validation data"):
            PolicyMetrics(data)

    def test_refuses_to_evaluate_never(self):
        with pytest.raises(ModelError, match="every >= 1"):
            PolicyMetrics((X, Y), every=0)
