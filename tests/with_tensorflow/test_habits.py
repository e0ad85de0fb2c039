"""Training as Keras' users train: other ways lead to the weights of a plain ``fit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fixtures.digits import few_digits

from matar_tf.keras import (
    MultiBitTrainer,
    PolicyRandomizer,
    calibrate,
    get_policy,
    get_policy_space,
    keras,
    load_model,
    quantize_model,
)
from matar_tf.keras._compat import tf

L = keras.layers
BATCH, NUM_BATCHES, EPOCHS, RATE = 16, 5, 2, 0.05
X = few_digits().x_test[: BATCH * NUM_BATCHES].astype(np.float32)
Y = few_digits().y_test[: BATCH * NUM_BATCHES]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BATCHES = [slice(start, start + BATCH) for start in range(0, len(X), BATCH)]


def make(*, norm: bool = True) -> Any:
    keras.utils.set_random_seed(0)
    inputs = L.Input((8, 8, 1), name="image")
    x = L.Conv2D(4, 3, strides=2, name="stem")(inputs)
    x = L.BatchNormalization(name="norm")(x) if norm else x
    x = L.Conv2D(6, 1, name="middle")(L.ReLU(name="stem_relu")(x))
    x = L.Flatten(name="flat")(L.ReLU(name="relu")(x))
    outputs = L.Dense(10, name="head")(x)
    model = quantize_model(keras.Model(inputs, outputs))
    calibrate(model, X)
    return model


def compiled(model: Any, **arguments: Any) -> Any:
    model.compile(keras.optimizers.SGD(RATE), LOSS, **arguments)
    return model


@pytest.fixture(scope="module")
def shared() -> tuple[Any, list[np.ndarray]]:
    """A model, and its weights before any training; `trained` puts them back."""
    model = compiled(make())
    return model, model.get_weights()


def again(shared: Any, kind: Any = keras.Model) -> Any:
    """Returns another model of the same layers, to be compiled otherwise."""
    return kind(shared[0].inputs, shared[0].outputs)


def fit(model: Any, *data: Any, callbacks: Any = (), **arguments: Any) -> Any:
    """Fits in the order of the data; returns the history of policies."""
    randomizer = PolicyRandomizer(seed=5)
    arguments = {"epochs": EPOCHS, "verbose": 0, "shuffle": False, **arguments}
    model.fit(*data, callbacks=[randomizer, *callbacks], **arguments)
    return randomizer.history


def trained(shared: Any, train: Callable[[Any], Any]) -> list[np.ndarray]:
    """Returns the weights that a way of training leads to from the shared start."""
    model, start = shared
    model.set_weights(start)
    model.optimizer.learning_rate = RATE
    train(model)
    return model.get_weights()


@pytest.fixture(scope="module")
def plain(shared: Any) -> list[np.ndarray]:
    """The weights after a plain ``fit`` of arrays."""
    return trained(shared, lambda model: fit(model, X, Y, BATCH))


def assert_same(ours: Any, theirs: Any) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def differ(ours: Any, theirs: Any) -> bool:
    return not all(map(np.allclose, ours, theirs))


class Batches(keras.utils.Sequence):
    def __len__(self) -> int:
        return NUM_BATCHES

    def __getitem__(self, index: int) -> Any:
        return X[BATCHES[index]], Y[BATCHES[index]]


def endless() -> Any:
    while True:
        yield from Batches()


class TestData:
    @pytest.mark.parametrize(
        ("data", "arguments"),
        [
            (Batches, {}),
            (endless, {"steps_per_epoch": NUM_BATCHES}),
            (lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH), {}),
        ],
    )
    def test_other_sources(
        self, shared: Any, plain: Any, data: Any, arguments: Any
    ) -> None:
        ours = trained(shared, lambda model: fit(model, data(), **arguments))
        assert_same(ours, plain)

    def test_class_weights_are_weights_of_samples(
        self, shared: Any, plain: Any
    ) -> None:
        of_class = {label: 0.2 * label for label in range(10)}
        of_samples = np.array([of_class[label] for label in Y], np.float32)
        ours, theirs = (
            trained(shared, lambda model, one=one: fit(model, X, Y, BATCH, **one))
            for one in ({"class_weight": of_class}, {"sample_weight": of_samples})
        )
        assert_same(ours, theirs)
        assert differ(ours, plain)


class TestStepsPerExecution:
    def test_each_batch_has_the_policy_that_it_has_alone(
        self, shared: Any, plain: Any
    ) -> None:
        # The last execution of an epoch is of one step.
        model = compiled(again(shared), steps_per_execution=4)
        histories = [fit(shared[0], X, Y, BATCH)]
        ours = trained(shared, lambda _: histories.append(fit(model, X, Y, BATCH)))
        assert_same(ours, plain)
        assert histories[0] == histories[1]
        assert len({policy for _, _, policy in histories[1]}) > 2 * EPOCHS

    def test_a_trainer_draws_several_for_each(self) -> None:
        layers = [L.Flatten(input_shape=(8, 8, 1)), L.Dense(6, "relu"), L.Dense(10)]
        model = quantize_model(keras.Sequential(layers))
        calibrate(model, X)
        start, weights = model.get_weights(), []
        for steps in (1, 2):
            trainer = MultiBitTrainer(model, draws=2)
            compiled(trainer, steps_per_execution=steps)
            model.set_weights(start)
            fit(trainer, X, Y, BATCH)
            weights.append(model.get_weights())
        assert_same(*weights)
        assert differ(weights[0], start)

    def test_without_a_graph(self, shared: Any) -> None:
        model = again(shared)
        weights = []
        for steps in (1, 4):
            compiled(model, steps_per_execution=steps, run_eagerly=True)
            weights.append(trained(shared, lambda _: fit(model, X, Y, BATCH)))
        assert_same(*weights)
        # A later fit without the callback keeps the policy in force.
        before = get_policy(model)
        model.fit(X, Y, BATCH, verbose=0)
        assert get_policy(model) == before


class OwnStep(keras.Model):
    """As in Keras' guide to a train_step of one's own."""

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        self.optimizer.minimize(loss, self.trainable_variables, tape)
        return {"loss": loss}


class Accumulating(keras.Model):
    """Adds the gradients of four batches up before the optimizer takes a step."""

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True)) / 4
        gradients = tape.gradient(loss, self.trainable_variables)
        for total, one in zip(self.totals, gradients, strict=True):
            total.assign_add(one)
        self.count.assign_add(1)
        tf.cond(self.count % 4 == 0, self.update, lambda: None)
        return {"loss": loss}

    def update(self) -> None:
        pairs = zip(self.totals, self.trainable_variables, strict=True)
        self.optimizer.apply_gradients(pairs)
        for total in self.totals:
            total.assign(tf.zeros_like(total))

    def begin(self) -> None:
        self.optimizer.build(self.trainable_variables)
        self.count = tf.Variable(0, trainable=False)
        self.totals = [
            tf.Variable(tf.zeros_like(one), trainable=False)
            for one in self.trainable_variables
        ]


class TestStepsOfOnesOwn:
    def test_train_step(self, shared: Any, plain: Any) -> None:
        model = compiled(again(shared, OwnStep))
        assert_same(trained(shared, lambda _: fit(model, X, Y, BATCH)), plain)

    def test_loop(self, shared: Any, plain: Any) -> None:
        model = again(shared)  # not compiled
        optimizer = keras.optimizers.SGD(RATE)
        variables = model.trainable_variables

        @tf.function
        def step(x: Any, y: Any) -> None:
            with tf.GradientTape() as tape:
                loss = LOSS(y, model(x, training=True))
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

        def train(_: Any) -> None:
            callbacks = keras.callbacks.CallbackList(
                [PolicyRandomizer(seed=5)], model=model
            )
            callbacks.on_train_begin()
            for epoch in range(EPOCHS):
                callbacks.on_epoch_begin(epoch)
                for number, place in enumerate(BATCHES):
                    callbacks.on_train_batch_begin(number)
                    step(tf.constant(X[place]), tf.constant(Y[place]))
                    callbacks.on_train_batch_end(number)
                callbacks.on_epoch_end(epoch)
            callbacks.on_train_end()

        assert_same(trained(shared, train), plain)

    @pytest.mark.usefixtures("eager")
    def test_gradients_accumulated_over_batches_are_those_of_all(self) -> None:
        """Without batch norm, under one policy, where it has to be so."""
        model = make(norm=False)
        start = model.get_weights()
        # A step's gradient is estimated from the first quarter of a batch: of 16 the
        # samples that come first in each batch of 4.
        order = np.arange(64).reshape(4, 4, 4).transpose(0, 2, 1).reshape(-1)
        compiled(model).fit(X[order], Y[order], 16, verbose=0, shuffle=False)
        expected = model.get_weights()
        model.set_weights(start)
        accumulating = compiled(Accumulating(model.inputs, model.outputs))
        accumulating.begin()
        accumulating.fit(X[:64], Y[:64], 4, verbose=0, shuffle=False)
        assert_same(model.get_weights(), expected)
        assert differ(start, expected)


class Scripted(keras.callbacks.Callback):
    """Says how good each epoch was, and keeps the weights after it."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores, self.weights = scores, []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["score"] = self.scores[epoch]
        self.weights.append(self.model.get_weights())


class TestCallbacks:
    def test_the_best_epoch_is_saved_and_restored(
        self, shared: Any, tmp_path: Any
    ) -> None:
        model = shared[0]
        scripted = Scripted([3.0, 1.0, 2.0, 2.0, 2.0, 0.0])
        paths = {
            name: str(tmp_path / name) for name in ("weights.h5", "ckpt", "model.h5")
        }
        savers = [
            keras.callbacks.ModelCheckpoint(
                path,
                monitor="score",
                save_best_only=True,
                save_weights_only=name != "model.h5",
            )
            for name, path in paths.items()
        ]
        plateau = keras.callbacks.ReduceLROnPlateau("score", factor=0.5, patience=2)
        stop = keras.callbacks.EarlyStopping(
            "score", patience=3, restore_best_weights=True
        )
        ours = trained(
            shared,
            lambda model: fit(
                model, X, Y, BATCH, epochs=6,
                callbacks=[scripted, *savers, plateau, stop],
            ),
        )  # fmt: skip
        assert len(scripted.weights) == 5  # three after the best
        best = scripted.weights[1]
        assert all(map(np.array_equal, ours, best))
        assert differ(best, scripted.weights[4])
        assert float(model.optimizer.learning_rate) == pytest.approx(RATE / 2)
        for name in ("weights.h5", "ckpt"):
            model.set_weights(shared[1])
            model.load_weights(paths[name])
            assert all(map(np.array_equal, model.get_weights(), best)), name
        loaded = load_model(paths["model.h5"])
        assert all(map(np.array_equal, loaded.get_weights(), best))
        assert get_policy(loaded) == get_policy_space(model).widest()
