"""The training step with soft labels and several policies, against hand-made ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fixtures.nets import build_net, free_space, samples_for

from matar_tf.errors import ModelError, PolicyError
from matar_tf.keras import (
    IndependentSampler,
    MultiBitTrainer,
    PolicyRandomizer,
    UniformSampler,
    calibrate,
    get_policy,
    get_policy_space,
    keras,
    policy_space,
    quantize_model,
    set_policy,
)
from matar_tf.keras._compat import tf

NAME = "residual_bn"
X = samples_for(NAME)
Y = np.arange(len(X)) % 5
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
pytestmark = pytest.mark.usefixtures("eager")


def fresh() -> tuple[Any, Any]:
    """The float network and its calibrated multi-bitwidth copy."""
    keras.utils.set_random_seed(3)
    network = build_net(NAME)
    model = quantize_model(network, free_space(network))
    calibrate(model, X)
    return network, model


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def one_step(model: Any, **arguments: Any) -> list[np.ndarray]:
    """Returns how one step of plain SGD at rate 1 moves the trainable weights."""
    trainer = MultiBitTrainer(model, **arguments)
    trainer.compile(keras.optimizers.SGD(1.0), CROSS_ENTROPY)
    before = [weight.numpy() for weight in model.trainable_weights]
    trainer.train_on_batch(X, Y)
    after = [weight.numpy() for weight in model.trainable_weights]
    return [old - new for old, new in zip(before, after, strict=True)]


def gradient(model: Any, loss: Any) -> list[np.ndarray]:
    with tf.GradientTape() as tape:
        value = loss(model(X, training=True))
    return [
        np.zeros(weight.shape) if one is None else tf.convert_to_tensor(one).numpy()
        for weight, one in zip(
            model.trainable_weights,
            tape.gradient(value, model.trainable_weights),
            strict=True,
        )
    ]


def assert_close(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-5)


def test_without_parts_it_is_a_plain_step() -> None:
    _, model = fresh()
    set_policy(model, "w4a4")
    expected = gradient(model, lambda logits: CROSS_ENTROPY(Y, logits))
    _, other = fresh()
    set_policy(other, "w4a4")
    assert_close(one_step(other), expected)


@pytest.mark.slow
@pytest.mark.parametrize("update_every_pass", [False, True])
def test_a_traced_step_is_the_one_that_runs_as_it_stands(
    update_every_pass: bool,
) -> None:
    """With all parts at once; the other tests look at parts of steps as they stand."""
    moves = []
    for eager in (True, False):
        tf.config.run_functions_eagerly(eager)
        network, model = fresh()
        set_policy(model, "w3a5")
        moves.append(
            one_step(
                model,
                teacher=network,
                distillation=0.5,
                temperature=2.0,
                sandwich=("widest", "narrowest"),
                draws=2,
                update_every_pass=update_every_pass,
                step_rates={3: 0.5},
            )
        )
    assert_close(*moves)
    assert max(np.abs(one).max() for one in moves[0]) > 1e-2


@pytest.mark.parametrize(("share", "temperature"), [(1.0, 1.0), (0.25, 2.0)])
def test_soft_labels_of_a_float_teacher(share: float, temperature: float) -> None:
    network, model = fresh()
    set_policy(model, "w3a3")
    soft = softmax(network.predict(X, verbose=0) / temperature)

    def loss(logits: Any) -> Any:
        # KL(p || q) = sum p log p - sum p log q.
        log_q = tf.nn.log_softmax(logits / temperature)
        divergence = (soft * np.log(soft)).sum(-1) - tf.reduce_sum(soft * log_q, -1)
        hard = (1.0 - share) * CROSS_ENTROPY(Y, logits)
        return hard + share * temperature**2 * tf.reduce_mean(divergence)

    expected = gradient(model, loss)
    network, other = fresh()
    set_policy(other, "w3a3")
    step = one_step(other, teacher=network, distillation=share, temperature=temperature)
    assert_close(step, expected)


def test_soft_labels_are_weighted_as_the_labels_are() -> None:
    network, model = fresh()
    weights = np.linspace(0.0, 2.0, len(X)).astype(np.float32)
    soft = softmax(network.predict(X, verbose=0))

    def loss(logits: Any) -> Any:
        # The cross-entropy with soft labels has the gradient of the divergence.
        each = -tf.reduce_sum(soft * tf.nn.log_softmax(logits), -1)
        hard = CROSS_ENTROPY(Y, logits, sample_weight=weights)
        return 0.25 * hard + 0.75 * tf.reduce_sum(weights * each) / len(X)

    expected = gradient(model, loss)
    network, other = fresh()
    trainer = MultiBitTrainer(other, teacher=network, distillation=0.75)
    trainer.compile(keras.optimizers.SGD(1.0), CROSS_ENTROPY)
    before = [weight.numpy() for weight in other.trainable_weights]
    trainer.train_on_batch(X, Y, sample_weight=weights)
    after = [weight.numpy() for weight in other.trainable_weights]
    assert_close([a - b for a, b in zip(before, after, strict=True)], expected)


@pytest.mark.parametrize("teacher", ["probabilities", "one logit", "other classes"])
def test_soft_labels_need_the_same_logits(teacher: str) -> None:
    L = keras.layers  # noqa: N806

    def network(units: int, activation: str | None = None) -> Any:
        inputs = L.Input((4,))
        return keras.Model(inputs, L.Dense(units, activation=activation)(inputs))

    teachers = {
        "probabilities": network(3, "softmax"),
        "one logit": network(1),
        "other classes": network(4),
    }
    student = network(1) if teacher == "one logit" else network(3)
    model = quantize_model(student)
    with pytest.raises(ModelError, match=r"two or more logits|the same outputs"):
        MultiBitTrainer(model, teacher=teachers[teacher], distillation=0.5)
    MultiBitTrainer(model, teacher=teachers[teacher])  # not asked for soft labels


@pytest.mark.parametrize(
    ("sandwich", "policies"),
    [
        (("widest", "narrowest"), ("w8a8", "w2a2", "w4a6")),
        (("w5a3",), ("w5a3", "w4a6")),
    ],
)
def test_sandwich_sums_its_policies(sandwich: Any, policies: Any) -> None:
    sums: list[np.ndarray] = []
    _, model = fresh()
    for name in policies:
        set_policy(model, name)
        new = gradient(model, lambda logits: CROSS_ENTROPY(Y, logits))
        sums = [a + b for a, b in zip(sums, new, strict=True)] if sums else new
    _, other = fresh()
    set_policy(other, "w4a6")
    step = one_step(other, sandwich=sandwich)
    assert_close(step, sums)
    assert get_policy(other) == get_policy_space(other).named("w4a6")


@pytest.mark.parametrize(
    ("arguments", "policies"),
    [
        ({}, ("w4a6",)),
        ({"sandwich": ("widest", "w2a2")}, ("w8a8", "w2a2", "w4a6")),
    ],
)
def test_an_update_after_every_pass(arguments: Any, policies: Any) -> None:
    _, model = fresh()
    before = [weight.numpy() for weight in model.trainable_weights]
    for name in policies:
        set_policy(model, name)
        step = gradient(model, lambda logits: CROSS_ENTROPY(Y, logits))
        for weight, change in zip(model.trainable_weights, step, strict=True):
            weight.assign_sub(change)
    after = [weight.numpy() for weight in model.trainable_weights]
    moves = [old - new for old, new in zip(before, after, strict=True)]
    _, other = fresh()
    set_policy(other, "w4a6")
    assert_close(one_step(other, update_every_pass=True, **arguments), moves)
    trainer = MultiBitTrainer(other, update_every_pass=True, **arguments)
    assert trainer.updates_per_step == len(policies)


def test_steps_keep_their_rate_after_every_pass() -> None:
    _, model = fresh()
    trainer = MultiBitTrainer(
        model, sandwich=("w4a4",), update_every_pass=True, step_rates={4: 0.0}
    )
    trainer.compile(keras.optimizers.SGD(1.0), CROSS_ENTROPY)
    set_policy(model, "w2a2")
    banks = [
        one
        for one in model.trainable_weights
        if "log_steps" in one.name and one.shape[0] == 7
    ]
    before = [bank.numpy() for bank in banks]
    trainer.train_on_batch(X, Y)
    moves = [bank.numpy() - old for bank, old in zip(banks, before, strict=True)]
    assert len(moves) == 4
    assert all(np.abs(move[0]).max() > 0 for move in moves)  # two bits
    assert all(not move[2].any() for move in moves)  # four


class Listed:
    """A sampler that gives what it was given, in turn."""

    def __init__(self, *names: str) -> None:
        self._names = list(names)

    def __call__(self, space: Any, rng: Any) -> Any:
        del rng
        return space.named(self._names.pop(0))


@pytest.mark.parametrize(
    ("draws", "names"),
    [(1, ["w8a8", "w5a3"]), (3, ["w8a8", "w5a3", "w2a2", "w4a6"])],
)
def test_a_step_sums_what_is_drawn_for_it(draws: int, names: list[str]) -> None:
    """And those of the sandwich, here one."""
    sums: list[np.ndarray] = []
    _, model = fresh()
    before = [weight.numpy() for weight in model.trainable_weights]
    for name in names:
        set_policy(model, name)
        new = gradient(model, lambda logits: CROSS_ENTROPY(Y, logits))
        sums = [a + b for a, b in zip(sums, new, strict=True)] if sums else new
    _, other = fresh()
    trainer = MultiBitTrainer(other, sandwich=names[:1], draws=draws)
    assert (trainer.draws, trainer.updates_per_step) == (draws, 1)
    trainer.compile(keras.optimizers.SGD(1.0), CROSS_ENTROPY)
    randomizer = PolicyRandomizer(Listed(*names[1:]))
    trainer.fit(
        X, Y, batch_size=len(X), shuffle=False, verbose=0, callbacks=[randomizer]
    )
    after = [weight.numpy() for weight in other.trainable_weights]
    assert_close([old - new for old, new in zip(before, after, strict=True)], sums)
    space = get_policy_space(other)
    assert randomizer.history == [(0, 0, space.named(name)) for name in names[1:]]


def test_without_draws_all_passes_are_of_the_policy_in_force() -> None:
    _, model = fresh()
    set_policy(model, "w3a3")
    expected = gradient(model, lambda logits: 3.0 * CROSS_ENTROPY(Y, logits))
    _, other = fresh()
    trainer = MultiBitTrainer(other, draws=3)
    trainer.compile(keras.optimizers.SGD(1.0), CROSS_ENTROPY)
    # What an earlier training drew is of no interest.
    randomizer = PolicyRandomizer(UniformSampler(names=("w8a8",)))
    randomizer.set_model(trainer)
    randomizer.on_train_batch_begin(0)
    randomizer.on_train_end()
    set_policy(other, "w3a3")
    before = [weight.numpy() for weight in other.trainable_weights]
    trainer.train_on_batch(X, Y)
    after = [weight.numpy() for weight in other.trainable_weights]
    assert_close([a - b for a, b in zip(before, after, strict=True)], expected)


def test_rates_of_steps_and_averaged_weights_exclude_each_other() -> None:
    _, model = fresh()
    averaging = keras.optimizers.SGD(1.0, use_ema=True)
    MultiBitTrainer(model).compile(averaging, CROSS_ENTROPY)
    slow = MultiBitTrainer(model, step_rates={2: 0.1})
    slow.compile(keras.optimizers.SGD(1.0), CROSS_ENTROPY)
    with pytest.raises(ModelError, match="use_ema"):
        slow.compile(averaging, CROSS_ENTROPY)


def test_a_model_of_one_policy_takes_one_pass() -> None:
    network, _ = fresh()
    space = policy_space(network)
    model = quantize_model(network, space.only(space.named("w4a4")))
    trainer = MultiBitTrainer(
        model, sandwich=("widest",), draws=3, update_every_pass=True
    )
    assert (trainer.draws, trainer.updates_per_step) == (1, 1)


def test_the_model_has_the_policies_of_the_sandwich() -> None:
    _, model = fresh()
    with pytest.raises(PolicyError, match="w9a9"):
        MultiBitTrainer(model, sandwich=("w9a9",))


def test_there_is_no_sandwich_of_one_policy() -> None:
    network, _ = fresh()
    space = policy_space(network)
    steps = []
    for sandwich in ((), ("widest", "w2a2")):
        model = quantize_model(network, space.only(space.named("w4a4")))
        calibrate(model, X)
        steps.append(one_step(model, sandwich=sandwich))
    for once, thrice in zip(*steps, strict=True):
        np.testing.assert_allclose(thrice, once, rtol=1e-5, atol=1e-7)


def test_in_place_distillation_learns_from_the_widest() -> None:
    _, model = fresh()
    set_policy(model, "w8a8")
    soft = softmax(model(X, training=True).numpy())
    first = gradient(model, lambda logits: CROSS_ENTROPY(Y, logits))

    def divergence(logits: Any) -> Any:
        return tf.reduce_mean(keras.losses.kl_divergence(soft, tf.nn.softmax(logits)))

    total = first
    for name in ("w2a2", "w3a3"):
        set_policy(model, name)
        total = [a + b for a, b in zip(total, gradient(model, divergence), strict=True)]
    _, other = fresh()
    set_policy(other, "w3a3")
    assert_close(
        one_step(other, sandwich=("widest", "narrowest"), distillation=1.0), total
    )


def test_the_teacher_is_neither_trained_nor_saved() -> None:
    network, model = fresh()
    before = network.get_weights()
    trainer = MultiBitTrainer(model, teacher=network, distillation=0.5)
    assert len(trainer.weights) == len(model.weights)
    trainer.compile("sgd", CROSS_ENTROPY)
    trainer.train_on_batch(X, Y)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_randomizer_draws_for_the_trainer() -> None:
    _, model = fresh()
    trainer = MultiBitTrainer(model)
    trainer.compile("adam", CROSS_ENTROPY, metrics=["accuracy"])
    randomizer = PolicyRandomizer(IndependentSampler(), seed=1)
    trainer.fit(X, Y, batch_size=8, verbose=0, callbacks=[randomizer])
    drawn = [policy for _, _, policy in randomizer.history]
    assert len(set(drawn)) == len(drawn) == -(-len(X) // 8)
    assert get_policy(model) == get_policy_space(model).widest()


def test_curriculum_changes_the_sampler_from_its_epoch_on() -> None:
    _, model = fresh()
    model.compile("sgd", "mse")
    first, then = UniformSampler(names=("w8a8",)), UniformSampler(names=("w2a2",))
    randomizer = PolicyRandomizer({0: first, 2: then})
    zeros = np.zeros((len(X), 5))
    model.fit(X, zeros, epochs=4, batch_size=len(X), verbose=0, callbacks=[randomizer])
    space = get_policy_space(model)
    names = [policy == space.named("w2a2") for _, _, policy in randomizer.history]
    assert names == [False, False, True, True]


@pytest.mark.parametrize("epochs", [{}, {1: UniformSampler()}, {-1: UniformSampler()}])
def test_curriculum_needs_a_first_sampler(epochs: Any) -> None:
    with pytest.raises(ModelError, match="from 0"):
        PolicyRandomizer(epochs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distillation": 0.5}, "teacher"),
        ({"distillation": 1.5}, "share"),
        ({"temperature": 0.0}, "temperature"),
        ({"draws": 0}, "at least one draw"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        MultiBitTrainer(fresh()[1], **arguments)


class TestStepRates:
    RATES = {4: 0.25, 2: 0.0}  # noqa: RUF012

    @pytest.mark.parametrize("name", ["w8a8", "w4a4", "w2a2"])
    def test_steps_move_by_their_share_and_nothing_else_changes(self, name) -> None:
        moves = []
        for rates in (None, self.RATES):
            _, model = fresh()
            set_policy(model, name)
            moves.append(one_step(model, step_rates=rates))
        bits = int(name[1])
        checked = 0
        for weight, plain, scaled in zip(model.trainable_weights, *moves, strict=True):
            is_step = "log_steps" in weight.name
            row = plain.shape[0] - 9 + bits
            if is_step and plain.shape[0] == 7:
                assert np.abs(plain[row]).max() > 0
                expected = plain * self.RATES.get(bits, 1.0)
                checked += 1
            else:
                expected = plain
            np.testing.assert_allclose(scaled, expected, rtol=1e-3, atol=1e-6)
        assert checked == 4  # one kernel, three tensors

    def test_adam_obeys_as_well(self) -> None:
        moved = []
        for rate in (1.0, 0.5):
            _, model = fresh()
            set_policy(model, "w3a3")
            trainer = MultiBitTrainer(model, step_rates={3: rate})
            trainer.compile(keras.optimizers.Adam(0.01), CROSS_ENTROPY)
            # The first and the last layer have 8 bits alone.
            steps = [
                one
                for one in model.trainable_weights
                if "log_steps" in one.name and one.shape[0] > 1
            ]
            before = [one.numpy() for one in steps]
            trainer.train_on_batch(X, Y)
            moved.append(
                [one.numpy() - old for one, old in zip(steps, before, strict=True)]
            )
        for full, half in zip(*moved, strict=True):
            np.testing.assert_allclose(half, full / 2, rtol=1e-3, atol=1e-6)
        assert max(np.abs(one).max() for one in moved[0]) > 1e-3

    @pytest.mark.parametrize("rates", [{1: 0.5}, {4: -0.1}])
    def test_rates_out_of_range(self, rates) -> None:
        _, model = fresh()
        with pytest.raises(ModelError, match="Expected step_rates"):
            MultiBitTrainer(model, step_rates=rates)
