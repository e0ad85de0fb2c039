"""Several inputs and outputs from a Keras network to its file, and training by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.nets import two_ends
from fixtures.programs import call, fails
from fixtures.samples import normal_samples, two_ends_samples

from matar_tf import load_artifact
from matar_tf.data import Data
from matar_tf.errors import ArtifactError, DataError, ModelError
from matar_tf.keras import (
    Method,
    MultiBitTrainer,
    PolicyRandomizer,
    Schedule,
    calibrate,
    get_policy,
    get_policy_space,
    keras,
    load_model,
    package,
    quantize_model,
    reestimate_batch_norm,
    set_policy,
    summary,
    train_multi_bit,
)
from matar_tf.keras._compat import tf
from matar_tf.keras.packaging.network import keras_reference, load_network
from matar_tf.keras.packaging.record import keras_tensors
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.export import export_model
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.verify import verify

L = keras.layers
SAMPLES = two_ends_samples()
KIND = np.arange(32) % 3
BOXES = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
LABELS = {"kind": KIND, "boxes": BOXES}
LOSSES = {
    "boxes": "mse",
    "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
}


def difference() -> Any:
    """Inputs of one shape, and outputs of one shape: names alone tell them apart."""
    inputs = [L.Input((4,), name=name) for name in ("b", "a")]
    x = L.Subtract(name="minus")(inputs)
    outputs = [L.Dense(2, name=name)(x) for name in ("second", "first")]
    return keras.Model(inputs, outputs)


def beside_relu() -> Any:
    """An output that a ReLU reads, which could be computed with its layer."""
    inputs = L.Input((4,), name="x")
    x = L.Dense(3, name="signed")(inputs)
    return keras.Model(inputs, [x, L.ReLU(name="relu")(x)])


def logits() -> Any:
    """`two_ends` with a batch norm, and logits at its end."""
    meta, image = L.Input((4,), name="meta"), L.Input((6, 6, 2), name="image")
    x = L.BatchNormalization(name="norm")(L.Conv2D(4, 3, name="stem")(image))
    x = L.Conv2D(4, 3, activation="relu", name="body")(L.ReLU(name="relu")(x))
    y = L.Dense(4, activation="relu", name="wide")(meta)
    x = L.Concatenate(name="joined")([L.Flatten(name="flat")(x), y])
    x = L.Dense(8, activation="relu", name="last")(x)
    outputs = [L.Dense(2, name="boxes")(x), L.Dense(3, name="kind")(x)]
    return keras.Model([meta, image], outputs)


class TestFile:
    @pytest.mark.parametrize("build", [two_ends, difference, beside_relu])
    def test_each_output_is_as_in_keras(self, build: Any, tmp_path: Path) -> None:
        keras.utils.set_random_seed(0)
        model = quantize_model(build())
        samples = {
            name: normal_samples(tuple(one.shape[1:]))
            for name, one in zip(model.input_names, model.inputs, strict=True)
        }
        if build is difference:
            samples["a"] = 0.5 * samples["a"][::-1]
        calibrate(model, samples)
        artifact = package(model)
        reference, builder = keras_reference(artifact), ModelBuilder(artifact)
        for name in ("w8a8", "w3a5"):
            policy = artifact.space.named(name)
            set_policy(model, policy)
            expected = model.predict(samples, verbose=0)
            found = Runner(builder.build(policy)).predict(samples)
            for output, one in zip(model.output_names, expected, strict=True):
                # TFLite computes a softmax on a grid.
                least = 1 / 256 if output == "kind" else 0.0
                np.testing.assert_allclose(found[output], one, atol=least)
            outcome = verify(
                builder.build(policy), samples, keras_tensors(artifact, policy, samples)
            )
            assert outcome.agreement == 1.0
            assert outcome.runtime_share == 0.0
            assert outcome.first_keras_difference is None
            exported = export_model(
                builder,
                policy,
                tmp_path / f"{name}.tflite",
                samples=samples,
                reference=reference,
            )
            assert exported.agreement == 1.0

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            (lambda _, x: x, "different tensors, got one that .* 'one', 'one_1'"),
            (lambda _, x: L.Dropout(0.1, name="two")(x), "'one', 'two'"),
            (lambda _, x: L.Flatten(name="two")(x), "'one', 'two'"),
            (lambda given, _: given, "got the input 'x' as it is; leave it out"),
        ],
    )
    def test_an_output_twice_or_an_input_is_refused(
        self, second: Any, message: str
    ) -> None:
        inputs = L.Input((4,), name="x")
        x = L.Dense(3, name="one")(inputs)
        with pytest.raises(ModelError, match=message):
            quantize_model(keras.Model(inputs, [x, second(inputs, x)]))

    def test_outputs_that_the_converter_makes_one_are_refused(self) -> None:
        inputs = L.Input((4,), name="x")
        x = L.Dense(3)(inputs)
        twins = [L.ReLU(name="one")(x), L.ReLU(name="two")(x)]
        with pytest.raises(ModelError, match="got one that several are, 'one', 'two'"):
            quantize_model(keras.Model(inputs, twins))
        others = [L.ReLU(name="one")(x), L.ReLU(6.0, name="two")(x)]
        assert quantize_model(keras.Model(inputs, others)).output_names == [
            *("one", "two")
        ]

    def test_what_outputs_mean(self) -> None:
        model = quantize_model(difference())
        calibrate(model, {name: normal_samples((4,)) for name in "ab"})
        artifact = package(model, outputs={"first": "metres to the left"})
        assert "second (2,) linear, first (2,) linear: metres" in repr(artifact)
        with pytest.raises(ArtifactError, match="Did you mean 'first'"):
            package(model, outputs={"frst": "metres"})


class TestSizes:
    def test_a_network_of_any_size_is_packaged_for_one(self) -> None:
        inputs = L.Input((None, None, 3), name="image")
        x = L.Conv2D(4, 3, strides=2, activation="relu", name="stem")(inputs)
        x = L.MaxPooling2D(name="pool")(L.Conv2D(4, 1, name="body")(x))
        x = L.Dense(3, name="kind")(L.GlobalAveragePooling2D(name="gap")(x))
        model = quantize_model(keras.Model(inputs, x, name="net"))
        calibrate(model, normal_samples((16, 12, 3)))
        with pytest.raises(DataError, match=r"samples of one size, got .*16, 12.*20"):
            calibrate(model, [normal_samples((one, 12, 3)) for one in (16, 20)])
        for shape, message in (
            (None, r"size for the input 'image' of 'net'.*input_shape=\(224, 224, 3\)"),
            ((9, 9), r"\(None, None, 3\), as integers, got \(9, 9\)"),
            ((9, 9, 4), r"got \(9, 9, 4\)"),
            ((9.0, 9.0, 3), r"got \(9.0, 9.0, 3\)"),
            ((4, 4, 3), "can be built for.*; give a larger one"),
            ({"picture": (9, 9, 3)}, "by the names of the inputs of 'net', 'image'"),
        ):
            with pytest.raises(ModelError, match=message):
                package(model, input_shape=shape)
        for shape in ((16, 12, 3), (11, 23, 3)):
            samples = normal_samples(shape)
            artifact = package(model, input_shape=shape)
            policy = artifact.space.named("w4a4")
            set_policy(model, policy)
            expected = load_network(artifact)
            set_policy(expected, policy)
            found = Runner(ModelBuilder(artifact).build(policy)).predict(samples)
            for one in (model, expected):
                np.testing.assert_array_equal(found, one.predict(samples, verbose=0))
            calibrated = artifact.provenance["calibration_samples"]
            assert calibrated == len(normal_samples((1,)))
            assert [one.shape for one in artifact.inputs.values()] == [shape]

    def test_the_command_takes_the_size(self, tmp_path: Path, capsys: Any) -> None:
        inputs = L.Input((None, 2), name="series")
        x = L.GlobalAveragePooling1D()(L.Conv1D(3, 3, activation="relu")(inputs))
        model = quantize_model(keras.Model(inputs, L.Dense(2)(x)))
        calibrate(model, normal_samples((9, 2)))
        model.save(tmp_path / "net.h5")
        values = {
            "model": str(tmp_path / "net.h5"),
            "output": str(tmp_path / "a.matar"),
        }
        assert "give --input_shape=224x2." in fails(capsys, "package", **values)
        wrong = fails(capsys, "package", **values, input_shape=["nine"])
        assert "sizes such as 96x96x3" in wrong
        for text in ("9x2", "(9, 2)", "series=9x2"):
            assert call("package", **values, input_shape=[text], overwrite=True) == 0
            assert "input (9, 2), output" in repr(load_artifact(values["output"]))


class TestNames:
    def test_are_those_of_the_float_network(self, tmp_path: Path) -> None:
        model = quantize_model(two_ends())
        assert model.output_names == ["boxes", "kind"]
        calibrate(model, SAMPLES)
        model.save(tmp_path / "a.h5")
        loaded = load_model(tmp_path / "a.h5")
        assert loaded.output_names == load_network(package(model)).output_names
        assert loaded.output_names == ["boxes", "kind"]
        for ours, theirs in zip(
            *(one.predict(SAMPLES, verbose=0) for one in (model, loaded)), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        names = [layer.name for layer in summary(model).layers]
        assert len(names) == len(set(names))


@pytest.fixture(scope="module")
def keyed() -> Any:
    inputs = L.Input((4,), name="x")
    ends = {"b": L.Dense(2, name="a")(inputs), "a": L.Dense(3, name="c")(inputs)}
    model = quantize_model(keras.Model(inputs, ends))
    calibrate(model, normal_samples((4,)))
    return model


class TestDicts:
    """Outputs in a dict, whose keys Keras takes for names, not those of layers."""

    def test_come_back_as_one(self, keyed: Any, tmp_path: Path) -> None:
        keyed.save(tmp_path / "a.h5")
        artifact, samples = package(keyed), normal_samples((4,))
        policy = artifact.space.named("w8a8")
        given = Runner(ModelBuilder(artifact).build(policy)).predict(samples)
        assert {name: one.shape[-1] for name, one in given.items()} == {"a": 3, "b": 2}
        networks = (keyed, load_model(tmp_path / "a.h5"), load_network(artifact))
        found = [one.predict(samples, verbose=0) for one in networks]
        found.append(keras_reference(artifact)(policy, samples))
        for one in found:
            assert sorted(one) == ["a", "b"]
            for name, values in one.items():
                np.testing.assert_array_equal(values, given[name])

    def test_fit_takes_labels_by_key(self, keyed: Any) -> None:
        labels = {"a": np.ones((32, 3)), "b": np.zeros((32, 2))}
        trainer = MultiBitTrainer(keyed, sandwich=("widest",), distillation=0.5)
        for one in (keyed, trainer):
            one.compile("sgd", {"a": "mse", "b": "mae"})
            one.fit(normal_samples((4,)), labels, verbose=0)

    def test_one_alone_is_one_too(self) -> None:
        inputs = L.Input((4,), name="x")
        model = quantize_model(keras.Model(inputs, {"only": L.Dense(2)(inputs)}))
        calibrate(model, samples := normal_samples((4,)))
        artifact = package(model)
        policy = artifact.space.named("w8a8")
        given = Runner(ModelBuilder(artifact).build(policy)).predict(samples)
        np.testing.assert_array_equal(model.predict(samples, verbose=0)["only"], given)
        assert list(artifact.outputs) == ["only"]


def by_keys(left: str, right: str) -> Any:
    """Inputs in a dict, whose keys are not the names of their layers."""
    given = {left: L.Input((4,), name="a"), right: L.Input((4,), name="b")}
    return keras.Model(given, L.Dense(3, name="d")(L.Subtract()(list(given.values()))))


class TestKeysOfInputs:
    def test_are_the_names_of_samples_from_fit_to_the_file(self) -> None:
        float_model = by_keys("b", "left")  # the one is the name of the other's layer
        x = normal_samples((4,))
        samples, labels = {"b": x, "left": 0.5 * x[::-1]}, np.ones((len(x), 3))
        model = quantize_model(float_model)
        expected = float_model.predict(samples, verbose=0)
        calibrate(model, samples)
        nearly = model.predict(samples, verbose=0)
        np.testing.assert_allclose(nearly, expected, atol=0.1)
        artifact = package(model)
        policy = artifact.space.named("w8a8")
        found = Runner(ModelBuilder(artifact).build(policy)).predict(samples)
        np.testing.assert_array_equal(found, nearly)
        for one in (float_model, model):
            one.compile("sgd", "mse")
            one.fit(samples, labels, verbose=0)
        with pytest.raises(DataError, match=r"by input, of the shapes \{'b': .*'left'"):
            calibrate(model, {"a": x, "b": x})

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("left one", "digits and _.-/ alone, got 'left one'; rename"),
            ("d", "two 'd'"),
        ],
    )
    def test_that_no_input_can_have_are_refused(self, key: str, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            quantize_model(by_keys(key, "b"))


class TestCalibration:
    def test_forms_of_samples_are_alike(self) -> None:
        in_order = [SAMPLES["meta"], SAMPLES["image"]]
        halves = [
            {name: one[part] for name, one in SAMPLES.items()}
            for part in (slice(16), slice(16, None))
        ]
        found = []
        for given in (SAMPLES, in_order, halves):
            keras.utils.set_random_seed(0)
            model = quantize_model(two_ends())
            calibrate(model, given)
            found.append(model.get_weights())
        for other in found[1:]:
            for ours, theirs in zip(found[0], other, strict=True):
                np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize(
        "given",
        [SAMPLES["image"], {"image": SAMPLES["image"]}, [SAMPLES["meta"]] * 2],
    )
    def test_others_are_refused_by_name(self, given: Any) -> None:
        model = quantize_model(two_ends())
        with pytest.raises(DataError, match=r"by input.*'meta': \(None, 4\), 'image'"):
            calibrate(model, given)


class TestTraining:
    def test_soft_labels_by_hand(self) -> None:
        """Of logits KL, of values squared differences; both by weights of losses."""
        keras.utils.set_random_seed(0)
        network, student = logits(), logits()
        model = quantize_model(student)
        calibrate(model, SAMPLES)
        trainer = MultiBitTrainer(model, teacher=network, distillation=0.25)
        trainer.compile("sgd", LOSSES, loss_weights={"boxes": 3.0})
        made = [one.numpy() for one in model(SAMPLES, training=True)]
        soft = [one.numpy() for one in network(SAMPLES, training=False)]
        teacher, ours = (
            np.exp(one) / np.exp(one).sum(1, keepdims=True)
            for one in (soft[1], made[1])
        )
        divergence = np.mean(np.sum(teacher * np.log(teacher / ours), axis=1))
        hard = -np.log(ours[np.arange(32), KIND]).mean()
        labels = hard + 3.0 * np.mean((made[0] - BOXES) ** 2)
        softer = divergence + 3.0 * np.mean((made[0] - soft[0]) ** 2)
        given, *outputs = (
            tf.nest.map_structure(tf.constant, one) for one in (LABELS, made, soft)
        )
        found = trainer._loss(SAMPLES, given, None, *outputs)
        assert float(found) == pytest.approx(0.75 * labels + 0.25 * softer, rel=1e-5)

    def test_fit_takes_labels_by_name(self) -> None:
        model = quantize_model(logits())
        trainer = MultiBitTrainer(model, sandwich=("widest",), distillation=0.5)
        for one in (trainer, model):
            one.compile("sgd", LOSSES, metrics={"kind": "accuracy"})
            history = one.fit(
                SAMPLES,
                LABELS,
                verbose=0,
                callbacks=[PolicyRandomizer()],
                batch_size=16,
            ).history
            assert {"boxes_loss", "kind_loss", "kind_accuracy"} <= set(history)
        assert len(trainer.predict(SAMPLES, verbose=0)) == 2

    def test_soft_labels_of_classes_need_logits(self) -> None:
        model = quantize_model(two_ends())
        trainer = MultiBitTrainer(model, sandwich=("widest",), distillation=0.5)
        with pytest.raises(ModelError, match=r"activation 'softmax'"):
            trainer.compile("sgd", LOSSES)

    def test_from_a_float_network_to_a_multi_bit_one(self) -> None:
        data = Data(x_test=SAMPLES, y_test=LABELS, x_train=SAMPLES, y_train=LABELS)
        schedule = Schedule(epochs=1, batch_size=16, learning_rate=0.001)
        model = train_multi_bit(logits(), data, schedule, Method(reestimation=4))
        assert model.output_names == ["boxes", "kind"]
        found = model.evaluate(SAMPLES, LABELS, verbose=0, return_dict=True)
        assert {"kind_accuracy", "boxes_mean_absolute_error"} <= set(found)
        with pytest.raises(ModelError, match="logits from the output 'kind'"):
            train_multi_bit(two_ends(), data, schedule)

    @pytest.mark.filterwarnings("ignore:Batch norm statistics stay")
    @pytest.mark.parametrize("method", ["match", "statistics"])
    def test_statistics_are_fitted_to_all_inputs(self, method: str) -> None:
        model = quantize_model(logits())
        calibrate(model, SAMPLES)
        before = get_policy(model)
        policies = [get_policy_space(model).named(name) for name in ("w8a8", "w3a3")]
        changed = reestimate_batch_norm(
            model, SAMPLES, method=method, policies=policies
        )
        assert changed or method == "match"  # few samples may leave nothing to gain
        assert get_policy(model) == before
        with pytest.raises(DataError, match="a mapping of samples by input"):
            reestimate_batch_norm(model, SAMPLES["image"], method=method)
