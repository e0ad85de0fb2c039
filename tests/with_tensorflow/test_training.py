import functools
import re
from dataclasses import replace

import numpy as np
import pytest
from fixtures.digits import few_digits
from fixtures.digits_training import build_net, trained_pair

from matar_tf.errors import DataError, ModelError
from matar_tf.keras import (
    Method,
    Schedule,
    evaluate_policies,
    get_policy,
    get_policy_space,
    keras,
    load_float,
    policy_space,
    train_float,
    train_multi_bit,
)
from matar_tf.keras._compat import tf
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.train import fit_loop as fitting
from matar_tf.keras.train import train as training_module
from matar_tf.samplers import UniformSampler

FEW = replace(
    few_digits(), x_train=few_digits().training()[0][:96],
    y_train=few_digits().training()[1][:96],
)  # fmt: skip
SHORT = Schedule(epochs=3, learning_rate=1e-2, batch_size=32)
eagerly = pytest.mark.usefixtures("eager")


def build_small(input_shape, num_classes):
    """One compute layer between input and output: quick to trace."""
    layers = keras.layers
    inputs = layers.Input(input_shape)
    x = layers.Conv2D(4, 3, strides=2, name="stem")(inputs)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.Flatten(name="flatten")(x)
    outputs = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, outputs, name="small")


def build_deep(input_shape, num_classes):
    """A layer with a choice of input widths, which the first one does not have."""
    layers = keras.layers
    inputs = layers.Input(input_shape)
    x = layers.Conv2D(2, 3, strides=2, activation="relu", name="stem")(inputs)
    x = layers.Conv2D(2, 1, name="middle")(x)
    x = layers.BatchNormalization(name="middle_bn")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(num_classes, name="logits")(x), name="deep")


def build_linear(input_shape, num_classes):
    inputs = keras.layers.Input(input_shape)
    x = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x), name="linear")


@functools.cache
def small_network():
    """Trained for an epoch; do not change it."""
    return train_float(build_small, FEW, replace(SHORT, epochs=1))


def assert_same_weights(one, other):
    for ours, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def have_same_weights(one, other):
    return all(map(np.array_equal, one.get_weights(), other.get_weights()))


class KilledError(Exception):
    pass


@pytest.fixture
def kill_in_epoch(monkeypatch):
    """Returns a function after which saving fails once, at the end of an epoch."""
    saved = fitting._Backup.on_epoch_end

    def arm(epoch):
        def on_epoch_end(self, current, logs=None):
            if current == epoch:
                monkeypatch.setattr(fitting._Backup, "on_epoch_end", saved)
                raise KilledError
            saved(self, current, logs)

        monkeypatch.setattr(fitting._Backup, "on_epoch_end", on_epoch_end)

    return arm


@pytest.fixture
def statistics_policies(monkeypatch):
    """Returns the list that collects the policies of all statistics."""
    seen = []
    monkeypatch.setattr(
        training_module,
        "reestimate_batch_norm",
        lambda *_, policies, **__: seen.extend(policies),
    )
    return seen


class TestSchedule:
    @pytest.mark.parametrize(
        "change",
        [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0},
         {"learning_rate": float("nan")}],
    )  # fmt: skip
    def test_refuses_what_trains_nothing(self, change):
        with pytest.raises(ModelError, match="at least one epoch"):
            replace(SHORT, **change)

    @pytest.mark.parametrize("bfloat16", [True, False])
    def test_bfloat16_is_in_force_in_fit_alone(self, bfloat16):
        name, seen = "auto_mixed_precision_onednn_bfloat16", []

        def in_force():
            options = tf.config.optimizer.get_experimental_options()
            return bool(options.get(name, False))

        def spied(x):
            seen.append(in_force())
            return x

        def build(input_shape, num_classes):
            linear = build_linear(input_shape, num_classes)
            outputs = keras.layers.Lambda(spied)(linear.output)
            return keras.Model(linear.input, outputs)

        model = train_float(build, FEW, replace(SHORT, epochs=1, bfloat16=bfloat16))
        assert seen[0] is False
        assert seen[-1] is bfloat16
        assert not in_force()
        model(FEW.x_test[:1])
        assert seen[-1] is False


class TestLearning:
    def test_float_and_all_widths_are_far_above_chance(self):
        data = few_digits()
        network, quantized = trained_pair()
        x, y = data.x_test, data.y_test
        result = network.evaluate(x, y, verbose=0, return_dict=True)
        assert result["accuracy"] > 0.85
        rows = evaluate_policies(quantized, x, y, ("w8a8", "w4a4", "w2a2"))
        assert rows["w8a8"]["accuracy"] > 0.85
        assert rows["w4a4"]["accuracy"] > 0.85
        assert rows["w2a2"]["accuracy"] > 0.7

    @pytest.mark.parametrize(
        "method",
        [
            Method(distillation=0.0),
            Method(teacher="sandwich", sandwich=("widest",)),
        ],
        ids=["labels", "widest teaches"],
    )
    def test_from_scratch_all_widths_are_far_above_chance(self, method):
        data = few_digits()
        x, y = data.x_test, data.y_test
        network = train_float(build_net, data, None)
        network.compile(metrics=["accuracy"])
        assert network.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] < 0.3
        schedule = Schedule(epochs=14, learning_rate=1e-2, batch_size=32)
        quantized = train_multi_bit(network, data, schedule, method)
        rows = evaluate_policies(quantized, x, y, ("w8a8", "w4a4", "w2a2"))
        assert rows["w8a8"]["accuracy"] > 0.85
        assert rows["w4a4"]["accuracy"] > 0.85
        assert rows["w2a2"]["accuracy"] > 0.7

    @eagerly
    def test_an_untrained_network_depends_on_the_seed_alone(self):
        first, again, other = (
            train_float(build_small, FEW, None, seed=seed) for seed in (0, 0, 1)
        )
        assert have_same_weights(first, again)
        assert not have_same_weights(first, other)

    def test_model_is_left_under_its_widest_policy(self):
        quantized = trained_pair()[1]
        assert get_policy(quantized) == get_policy_space(quantized).named("w8a8")

    @eagerly
    def test_accuracy_is_that_of_classes_after_saving(self, tmp_path):
        """Saving makes Keras build metrics; by name it guesses one-hot labels."""
        network = small_network()
        model = train_multi_bit(network, FEW, replace(SHORT, epochs=1))
        model.save(tmp_path / "model.h5")
        right = np.argmax(model.predict(FEW.x_test, verbose=0), axis=1) == FEW.y_test
        rows = evaluate_policies(model, FEW.x_test, FEW.y_test, ("w8a8",))
        assert rows["w8a8"]["accuracy"] == pytest.approx(right.mean(), abs=1e-6)

    def test_evaluate_policies_leaves_the_policy_in_force(self):
        quantized, data = trained_pair()[1], few_digits()
        before = get_policy(quantized)
        evaluate_policies(quantized, data.x_test[:8], data.y_test[:8], ("w2a2",))
        assert get_policy(quantized) == before

    @eagerly
    def test_float_network_is_not_changed(self):
        network = train_float(build_small, FEW, SHORT)
        before = network.get_weights()
        train_multi_bit(network, FEW, replace(SHORT, epochs=1))
        for ours, theirs in zip(network.get_weights(), before, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    @eagerly
    def test_classes_that_only_the_test_part_has_get_an_output(self):
        y = np.where(FEW.y_test == 0, 11, FEW.y_test)
        network = train_float(build_linear, replace(FEW, y_test=y), SHORT)
        assert network.output_shape == (None, 12)

    @eagerly
    def test_space_and_sampler_are_used(self):
        network = small_network()
        space = policy_space(network).with_choices(weights={"stem": (3, 5)})
        used = []

        def sampler(space, rng):
            used.append(space)
            return space.named("w3a8")

        method = Method(sampler=sampler, reestimation=2)
        quantized = train_multi_bit(network, FEW, SHORT, method, space=space)
        assert get_policy_space(quantized) == space
        # Half of the policies of the statistics are the sampler's.
        assert used == [space] * (9 + 1)

    @eagerly
    def test_one_policy_needs_a_tenth_of_the_batches_of_statistics(
        self, statistics_policies
    ):
        network = small_network()
        space = policy_space(network)
        space = space.only(space.narrowest())
        # Neither the sampler nor the sandwich has a policy of this space.
        method = Method(
            sampler=UniformSampler(names=("w8a8",)),
            sandwich=("w4a4",),
            reestimation=41,
        )
        schedule = replace(SHORT, epochs=1)
        train_multi_bit(network, FEW, schedule, method, space=space)
        assert statistics_policies == [space.narrowest()] * 5  # 41 / 10, rounded up

    @eagerly
    def test_statistics_are_those_of_all_samplers_of_a_curriculum(
        self, statistics_policies
    ):
        network = train_float(build_linear, FEW, replace(SHORT, epochs=1))
        space = policy_space(network)
        space = space.with_choices(weights=dict.fromkeys(space.weights, (2, 4)))
        drawn = [space.widest(), space.narrowest()]
        method = Method(
            sampler={0: lambda *_: drawn[0], 1: lambda *_: drawn[1]}, reestimation=8
        )
        schedule = replace(SHORT, epochs=2)
        train_multi_bit(network, FEW, schedule, method, space=space)
        assert statistics_policies[:4] == [drawn[0], drawn[0], drawn[1], drawn[1]]
        assert len(statistics_policies) == 8

    @eagerly
    def test_statistics_see_the_sandwich_as_often_as_training(
        self, statistics_policies
    ):
        network = small_network()
        space = policy_space(network)
        space = space.with_choices(weights=dict.fromkeys(space.weights, (2, 3, 4)))
        drawn = space.named("w3a8")
        method = Method(
            sampler=lambda *_: drawn,
            sandwich=("widest", "narrowest"),
            draws=3,
            reestimation=20,
        )
        schedule = replace(SHORT, epochs=1)
        train_multi_bit(network, FEW, schedule, method, space=space)
        step = [space.widest(), space.narrowest(), drawn, drawn, drawn]
        assert statistics_policies[:10] == step * 2
        assert len(statistics_policies) == 20

    def test_needs_training_data(self):
        data = replace(FEW, x_train=None, y_train=None)
        with pytest.raises(DataError, match="add x_train"):
            train_float(build_linear, data, SHORT)
        with pytest.raises(DataError, match="add x_train"):
            train_multi_bit(trained_pair()[0], data, SHORT)


@eagerly
class TestMethod:
    """Every part matters, and alone."""

    PLAIN = Method(distillation=0.0, norm_context=0, reestimation=0)

    @classmethod
    def train(cls, **changes):
        network = small_network()
        schedule = replace(SHORT, epochs=1)
        space = policy_space(network).with_choices(weights={"stem": (2, 8)})
        return train_multi_bit(
            network, FEW, schedule, replace(cls.PLAIN, **changes), space=space
        )

    @classmethod
    @functools.cache
    def plain(cls):
        return cls.train()

    @pytest.mark.parametrize(
        "changes",
        [
            {"distillation": 0.5},
            {"distillation": 0.5, "temperature": 4.0},
            {"sandwich": ("narrowest",)},
            {"draws": 2},
            {"kurtosis": 1.0},
            {"step_rates": tuple((bits, 0.0) for bits in range(2, 9))},
            {"reestimation": 3},
        ],
        ids=lambda changes: ",".join(changes),
    )
    def test_part_changes_the_result(self, changes):
        assert not have_same_weights(self.plain(), self.train(**changes))

    def test_an_update_after_every_pass(self):
        """The learning rate falls over all updates, four times as many of them."""
        method = {"sandwich": ("widest", "w2a8"), "draws": 2}
        optimizers = []
        make = fitting._OPTIMIZERS["adam"]

        def remembered(*args, **kwargs):
            optimizers.append(make(*args, **kwargs))
            return optimizers[-1]

        small_network()  # made before its optimizer would be remembered
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(fitting._OPTIMIZERS, "adam", remembered)
            summed = self.train(**method)
            after_each = self.train(**method, update_every_pass=True)
        assert not have_same_weights(summed, after_each)
        once, often = optimizers
        assert int(often.iterations) == 4 * int(once.iterations)
        for optimizer in (once, often):  # by the rate of the last update
            done = (int(optimizer.iterations) - 1) / int(optimizer.iterations)
            rate = 0.01 + 0.99 * (1 + np.cos(np.pi * done)) / 2
            assert float(optimizer.learning_rate) == pytest.approx(
                rate * SHORT.learning_rate
            )

    def test_teachers_differ(self):
        method = {"distillation": 0.9, "sandwich": ("widest", "narrowest")}
        by_float = self.train(**method)
        by_widest = self.train(**method, teacher="sandwich")
        assert not have_same_weights(by_float, by_widest)

    def test_context_reaches_the_batch_norms(self):
        network = train_float(build_deep, FEW, replace(SHORT, epochs=1))
        lengths = [
            len(wrapper.inner_layer(model.get_layer("quant_middle_bn")).context)
            for model in (
                train_multi_bit(
                    network,
                    FEW,
                    replace(SHORT, epochs=1),
                    replace(self.PLAIN, norm_context=norm_context),
                )
                for norm_context in (0, 1)
            )
        ]
        assert lengths == [0, 1]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("distillation", 1.5),
            ("temperature", 0.0),
            ("draws", 0),
            ("norm_context", -1),
            ("kurtosis", -0.1),
            ("reestimation", -1),
        ],
    )
    def test_refuses_fields_out_of_range(self, field, value):
        with pytest.raises(ModelError, match=f"got .*{value}"):
            Method(**{field: value})

    def test_unknown_teacher(self):
        with pytest.raises(ModelError, match="float or sandwich"):
            Method(teacher="me")

    def test_moving_average_of_the_weights(self):
        plain = train_float(build_small, FEW, SHORT)
        averaged = train_float(build_small, FEW, replace(SHORT, ema=0.5))
        assert not have_same_weights(plain, averaged)

    def test_optimizers_and_warm_up(self):
        runs = [
            train_float(build_linear, FEW, replace(SHORT, **changes)).get_weights()[0]
            for changes in (
                {},
                {"optimizer": "sgd"},
                {"warmup_epochs": 1},
            )
        ]
        assert not np.array_equal(runs[0], runs[1])
        assert not np.array_equal(runs[0], runs[2])

    @pytest.mark.parametrize(
        "changes",
        [{"optimizer": "rmsprop"}, {"warmup_epochs": 3}, {"ema": 1.0}],
    )
    def test_refuses(self, changes):
        with pytest.raises(ModelError, match="Expected"):
            replace(SHORT, **changes)


@eagerly
class TestDeterminism:
    def test_same_seed_gives_the_same_float_weights(self):
        schedule = replace(SHORT, augment=True)
        first = train_float(build_small, FEW, schedule, seed=1)
        keras.utils.set_random_seed(99)
        again = train_float(build_small, FEW, schedule, seed=1)
        other = train_float(build_small, FEW, schedule, seed=2)
        assert_same_weights(first, again)
        assert not have_same_weights(first, other)


def _widest():
    return lambda space, _: space.widest()


@eagerly
class TestFolder:
    def test_float_goes_on_to_the_same_weights(self, tmp_path, kill_in_epoch):
        schedule = replace(SHORT, augment=True)
        whole = train_float(build_small, FEW, schedule)
        kill_in_epoch(1)
        with pytest.raises(KilledError):
            train_float(build_small, FEW, schedule, folder=tmp_path)
        restored = train_float(build_small, FEW, schedule, folder=tmp_path)
        assert_same_weights(restored, whole)

    @pytest.mark.slow
    def test_multi_bit_goes_on_to_the_same_weights(
        self, tmp_path, kill_in_epoch, capfd
    ):
        """The same seed gives the same weights, stopped or not; another seed others."""
        network = train_float(build_small, FEW, SHORT)
        whole = train_multi_bit(network, FEW, SHORT)
        assert not have_same_weights(
            whole, train_multi_bit(network, FEW, SHORT, seed=1)
        )
        kill_in_epoch(2)
        with pytest.raises(KilledError):
            train_multi_bit(network, FEW, SHORT, folder=tmp_path)
        capfd.readouterr()
        restored = train_multi_bit(network, FEW, SHORT, folder=tmp_path)
        assert re.findall(r"Epoch (\d)/3", capfd.readouterr().out) == ["3"]
        assert_same_weights(restored, whole)
        # Complete: nothing is left to train, and the model is the same.
        complete = train_multi_bit(network, FEW, SHORT, folder=tmp_path)
        assert capfd.readouterr().out == ""
        assert_same_weights(complete, whole)
        assert get_policy(complete) == get_policy_space(complete).named("w8a8")

    @pytest.mark.parametrize(
        ("change", "differing"),
        [
            ({"schedule": replace(SHORT, epochs=4)}, "schedule"),
            ({"seed": 1}, "seed"),
            ({"data": replace(FEW, name="other")}, "data"),
            ({"data": FEW.head(50)}, "data_digest"),
            ({"build_model": build_small}, "weights"),
        ],
        ids=["schedule", "seed", "data", "fewer samples", "model"],
    )
    def test_refuses_to_go_on_with_another_training(self, tmp_path, change, differing):
        arguments = {
            "build_model": build_linear, "data": FEW, "schedule": SHORT,
            "folder": tmp_path,
        }  # fmt: skip
        train_float(**arguments)
        with pytest.raises(ModelError, match=f"another: .*{differing}.* differ"):
            train_float(**{**arguments, **change})

    def test_a_record_of_training_that_is_damaged(self, tmp_path):
        train_float(build_linear, FEW, SHORT, folder=tmp_path)
        for content, message in (
            (b"[", r"JSON in .*training\.json"),
            (b"\xff", r"JSON in .*training\.json"),
            (b"[]", "another: .*schedule.* differ"),
        ):
            (tmp_path / "training.json").write_bytes(content)
            with pytest.raises(ModelError, match=message):
                train_float(build_linear, FEW, SHORT, folder=tmp_path)

    @pytest.mark.parametrize(
        "differing", ["training_digest", "space", "initial_weights"]
    )
    def test_refuses_to_go_on_from_another_start(self, tmp_path, differing):
        network = train_float(build_net, FEW, None)
        space = None
        data, method = FEW, Method(distillation=0.0, reestimation=0, sampler=_widest())
        schedule = replace(SHORT, epochs=1)
        train_multi_bit(network, data, schedule, method, folder=tmp_path)
        # The same sampler, made again, is no other training.
        method = replace(method, sampler=_widest())
        train_multi_bit(network, data, schedule, method, folder=tmp_path)
        if differing == "training_digest":
            data = replace(FEW, y_train=FEW.y_train[::-1])
        elif differing == "space":
            space = policy_space(network)
            space = space.only(space.named("w4a4"))
        else:
            network.set_weights([2.0 * one for one in network.get_weights()])
        with pytest.raises(ModelError, match=f"another: .*{differing}.* differ"):
            train_multi_bit(
                network, data, schedule, method, space=space, folder=tmp_path
            )

    def test_a_folder_without_a_saved_epoch_starts_anew(self, tmp_path, kill_in_epoch):
        kill_in_epoch(0)
        with pytest.raises(KilledError):
            train_float(build_linear, FEW, SHORT, folder=tmp_path)
        network = train_float(build_linear, FEW, SHORT, seed=1, folder=tmp_path)
        assert_same_weights(network, train_float(build_linear, FEW, SHORT, seed=1))


class TestLoadFloat:
    @pytest.mark.parametrize("ending", ["h5", "keras", "folder"])
    def test_takes_what_was_compiled_otherwise_or_not_at_all(self, tmp_path, ending):
        network = build_linear((8, 8, 1), 10)
        if ending != "keras":
            network.compile("sgd", "mse", metrics=["mae"])
        path = tmp_path / ("net" if ending == "folder" else f"net.{ending}")
        network.save(path)
        loaded = load_float(path, FEW)
        assert have_same_weights(network, loaded)
        figures = loaded.evaluate(FEW.x_test, FEW.y_test, verbose=0, return_dict=True)
        logits = network.predict(FEW.x_test, verbose=0)
        assert figures["accuracy"] == pytest.approx(
            np.mean(logits.argmax(-1) == FEW.y_test)
        )
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        shares = powers / powers.sum(-1, keepdims=True)
        loss = -np.log(shares[np.arange(len(logits)), FEW.y_test]).mean()
        assert figures["loss"] == pytest.approx(loss, rel=1e-4)

    @pytest.mark.parametrize(
        "network",
        [
            build_linear((8, 8, 2), 10),
            build_linear((8, 8, 1), 9),
            keras.Sequential(
                [
                    keras.layers.Input((8, 8, 1)),
                    keras.layers.Flatten(),
                    keras.layers.Dense(10, activation="softmax"),
                ]
            ),
        ],
    )
    def test_refuses_networks_for_something_else(self, tmp_path, network):
        network.save(tmp_path / "net.h5")
        with pytest.raises(ModelError, match=r"of shape \(8, 8, 1\) to logits of 10"):
            load_float(tmp_path / "net.h5", FEW)

    def test_probabilities_are_not_trained_as_logits(self):
        def build(input_shape, num_classes):
            net = build_linear(input_shape, num_classes)
            return keras.Model(net.input, keras.layers.Softmax()(net.output))

        schedule = Schedule(epochs=1, learning_rate=1e-3, batch_size=32)
        with pytest.raises(ModelError, match="outputs are logits"):
            train_float(build, FEW, schedule)
        method = Method(distillation=0.0)
        with pytest.raises(ModelError, match="outputs are logits"):
            train_multi_bit(build((8, 8, 1), 10), FEW, schedule, method)

    def test_all_that_is_to_be_changed_is_said_before_anything_is_made(self):
        inputs = keras.layers.Input((8, 8, 1))
        x = keras.layers.BatchNormalization(renorm=True, name="norm")(inputs)
        x = keras.layers.Dense(10, activation="softmax")(keras.layers.Flatten()(x))
        model = keras.Model(inputs, x)
        schedule = Schedule(epochs=1, learning_rate=1e-3, batch_size=32)
        with pytest.raises(ModelError) as caught:
            train_multi_bit(model, FEW, schedule)
        assert "outputs are logits" in str(caught.value)
        assert "without renorm" in str(caught.value)

    def test_refuses_what_is_no_network(self, tmp_path):
        (tmp_path / "net.h5").write_text("no HDF5")
        for path in (tmp_path / "net.h5", tmp_path / "none.h5"):
            with pytest.raises(
                ModelError, match=r"HDF5 file as Keras|saved by tf_keras"
            ):
                load_float(path, FEW)
