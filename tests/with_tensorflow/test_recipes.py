from dataclasses import replace

import numpy as np
import pytest
from fixtures.digits import few_digits
from fixtures.paths import ROOT

from matar_tf.artifact import read_artifact, write_artifact
from matar_tf.commands._training import float_network
from matar_tf.data import Data, load_data
from matar_tf.errors import DataError, MatarError
from matar_tf.keras import (
    keras,
    load_network,
    package,
    policy_space,
    set_policy,
    train_float,
    train_multi_bit,
)
from matar_tf.scales import POWER_OF_TWO
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.metrics import argmax_agreement
from matar_tf.tflite.runtime import Runner
from recipes.common import list_recipes, load_recipe
from recipes.models import (
    cifar_resnet20,
    digits_chip,
    digits_resnet,
    mlperf_tiny_dscnn,
    mlperf_tiny_resnet8,
)


class TestLoading:
    def test_lists_the_recipes(self):
        assert list_recipes() == (
            "cifar10_resnet20",
            "cifar10_resnet8",
            "digits_chip",
            "digits_resnet8",
            "fsdd_dscnn",
        )

    @pytest.mark.parametrize("name", list_recipes())
    def test_every_recipe_loads_under_its_name(self, name):
        config = load_recipe(name)
        assert config.name == name
        assert config.float_schedule.epochs > 1
        assert config.multi_bit_schedule.epochs > 1

    @pytest.mark.parametrize("name", list_recipes())
    def test_quick_differs_only_in_name_epochs_statistics_and_measurements(self, name):
        config, fast = load_recipe(name), load_recipe(f"{name}:quick")
        assert fast.name == f"{name}:quick"
        assert fast.float_schedule.epochs == fast.multi_bit_schedule.epochs == 1
        assert fast.method.reestimation == 50 < config.method.reestimation
        assert fast.measured_policies == 20 < config.measured_policies
        assert config == replace(
            fast,
            name=name,
            measured_policies=config.measured_policies,
            method=replace(fast.method, reestimation=config.method.reestimation),
            float_schedule=replace(
                fast.float_schedule,
                epochs=config.float_schedule.epochs,
                warmup_epochs=config.float_schedule.warmup_epochs,
            ),
            multi_bit_schedule=replace(
                fast.multi_bit_schedule,
                epochs=config.multi_bit_schedule.epochs,
                warmup_epochs=config.multi_bit_schedule.warmup_epochs,
            ),
        )

    @pytest.mark.parametrize("name", list_recipes())
    def test_scratch_differs_only_in_name_float_training_and_teacher(self, name):
        config, scratch = load_recipe(name), load_recipe(f"{name}:scratch")
        assert scratch.float_schedule is None
        assert scratch.method.distillation == 0.0
        assert config == replace(
            scratch,
            name=name,
            float_schedule=config.float_schedule,
            method=replace(scratch.method, distillation=config.method.distillation),
        )

    @pytest.mark.parametrize("name", list_recipes())
    def test_bfloat16_differs_only_in_name_and_precision(self, name):
        config, other = load_recipe(name), load_recipe(f"{name}:bfloat16")
        assert other.float_schedule.bfloat16
        assert other.multi_bit_schedule.bfloat16
        assert config == replace(
            other,
            name=name,
            float_schedule=replace(other.float_schedule, bfloat16=False),
            multi_bit_schedule=replace(other.multi_bit_schedule, bfloat16=False),
        )
        both = load_recipe(f"{name}:scratch:bfloat16")
        assert both.float_schedule is None
        assert both.multi_bit_schedule.bfloat16

    @pytest.mark.parametrize("name", list_recipes())
    def test_power_of_two_differs_only_in_name_and_scales(self, name):
        config, other = load_recipe(name), load_recipe(f"{name}:power_of_two")
        assert other.scale == POWER_OF_TWO
        assert config == replace(other, name=name, scale="free")

    def test_variants_add_up(self):
        both = load_recipe("digits_resnet8:scratch:quick")
        assert both.float_schedule is None
        assert both.multi_bit_schedule.epochs == 1
        assert both == replace(
            load_recipe("digits_resnet8:quick:scratch"), name=both.name
        )

    def test_default_data_can_be_loaded(self):
        assert load_data(load_recipe("digits_resnet8").data).training()
        assert load_recipe("cifar10_resnet8").data is None

    @pytest.mark.parametrize("name", ["digits", "common", "models", "__init__", ""])
    def test_refuses_an_unknown_name(self, name):
        with pytest.raises(MatarError, match="name of a recipe"):
            load_recipe(name)

    def test_suggests_the_nearest_name(self):
        with pytest.raises(MatarError, match="Did you mean 'digits_resnet8'"):
            load_recipe("digit_resnet8")

    @pytest.mark.parametrize("variant", ["slow", "", "quick:quick", "scratch:slow"])
    def test_refuses_an_unknown_variant(self, variant):
        with pytest.raises(MatarError, match="among quick, scratch"):
            load_recipe(f"digits_resnet8:{variant}")


class TestModels:
    def test_resnet8_has_the_parameters_of_mlperf_tiny(self):
        model = mlperf_tiny_resnet8((32, 32, 3), 10)
        assert model.count_params() == 78_666
        assert model.output_shape == (None, 10)

    def test_resnet20_by_hand(self):
        model = cifar_resnet20((32, 32, 3), 10)
        weights = 27 * 16 + 6 * 144 * 16  # stem and first stack
        for narrow, wide in ((16, 32), (32, 64)):
            weights += 9 * narrow * wide + 5 * 9 * wide * wide + narrow * wide
        channels = 7 * 16 + 7 * 32 + 7 * 64  # each with a bias and a batch norm
        assert model.count_params() == weights + 5 * channels + 64 * 10 + 10

    def test_dscnn_by_hand(self):
        model = mlperf_tiny_dscnn((49, 10, 1), 12)
        stem = 40 * 64 + 5 * 64
        block = 9 * 64 + 4 * 64 + 64 * 64 + 5 * 64
        assert model.count_params() == stem + 4 * block + 64 * 12 + 12

    @pytest.mark.parametrize("build", [cifar_resnet20, mlperf_tiny_dscnn])
    def test_every_layer_can_be_quantized(self, build):
        space = policy_space(build((16, 10, 1), 7))
        assert len(space.weights) in (10, 22)

    @pytest.mark.parametrize("build", [mlperf_tiny_resnet8, digits_resnet, digits_chip])
    def test_output_is_logits_of_every_class(self, build):
        keras.utils.set_random_seed(0)
        model = build((16, 16, 2), 7)
        x = np.random.default_rng(0).normal(size=(3, 16, 16, 2)).astype(np.float32)
        outputs = model(x, training=True).numpy()
        assert outputs.shape == (3, 7)
        assert np.abs(outputs.sum(axis=1) - 1).min() > 1e-3


@pytest.mark.slow
def test_quick_digits_trains_and_packages(tmp_path):
    config, data = load_recipe("digits_resnet8:quick"), few_digits()
    x, y = data.training()
    data = replace(data, x_train=x[:128], y_train=y[:128])
    network = train_float(config.build_model, data, config.float_schedule)
    quantized = train_multi_bit(network, data, config.multi_bit_schedule)
    write_artifact(package(quantized, include_network=False), tmp_path / "digits.matar")
    artifact = read_artifact(tmp_path / "digits.matar")
    content = ModelBuilder(artifact).build(artifact.space.named("w4a4"))
    set_policy(quantized, "w4a4")
    outputs = Runner(content).predict(data.x_test)
    expected = quantized(data.x_test, training=False).numpy()
    assert argmax_agreement(outputs, expected) > 0.97


class TestShippedArtifacts:
    @pytest.mark.parametrize(
        ("name", "accuracy", "levels", "led"),
        [("cifar10_resnet8", 0.86, 4, 0.8), ("cifar10_resnet20", 0.9, 5, 0.6)],
    )
    def test_exports_without_data_and_agrees_with_its_keras_network(
        self, name, accuracy, levels, led
    ):
        artifact = read_artifact(ROOT / f"recipes/artifacts/{name}.matar")
        assert artifact.provenance["recipe"] == f"{name}:bfloat16"
        assert artifact.accuracy["w4a4"]["accuracy"] > accuracy
        network = load_network(artifact)
        samples = np.random.default_rng(0).random((64, 32, 32, 3), np.float32)
        builder = ModelBuilder(artifact)
        for policy in ("w8a8", "w3a5", "w2a2"):
            set_policy(network, policy)
            content = builder.build(artifact.space.named(policy))
            outputs = Runner(content).predict(samples)
            theirs = network.predict(samples, verbose=0)
            # A level at most, but where a flipped narrow one has spread; on noise two
            # classes often share a level.
            step = float(artifact.parameters.tensors["logits"].step[-1])
            apart = np.abs(outputs - theirs) / step
            assert np.mean(apart > 1.01) < 0.03
            assert apart.max() < levels + 0.01
            second, first = np.sort(theirs, axis=1)[:, -2:].T
            leads = first - second > 2.01 * step
            assert leads.mean() > led
            assert argmax_agreement(outputs[leads], theirs[leads]) == 1.0


def test_samples_of_another_rank_than_the_network_takes() -> None:
    config = load_recipe("digits_resnet8:quick")
    samples, labels = np.zeros((4, 16), np.float32), np.arange(4)
    data = Data(
        name="rows", x_test=samples, y_test=labels, x_train=samples, y_train=labels
    )
    with pytest.raises(DataError, match=r"'digits_resnet8.*'rows' of shape \('n', 16"):
        float_network(None, config, data, seed=0)
