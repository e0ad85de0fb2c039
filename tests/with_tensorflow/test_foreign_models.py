"""Files that others made with TensorFlow, and TensorFlow's own interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits
from fixtures.processes import predict_alone

from matar_tf.errors import DataError, ExportError
from matar_tf.keras._compat import keras, tf
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner


@pytest.fixture(scope="module")
def content() -> bytes:
    artifact = digits_artifact()
    return ModelBuilder(artifact).build(artifact.space.named("w8a8"))


def convert(model: Any) -> bytes:
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


@pytest.mark.slow
def test_tensorflow_agrees_with_litert(content, tmp_path):
    samples = few_digits().x_test
    ours = Runner(content).predict(samples)
    theirs = predict_alone(content, samples, "tensorflow", tmp_path)
    assert np.mean(ours.argmax(1) == theirs.argmax(1)) >= 0.97


class TestErrors:
    def test_tflite_runtime_after_tensorflow(self, content):
        with pytest.raises(ExportError, match="a process of its own"):
            Runner(content, runtime="tflite_runtime")

    def test_file_with_another_input_type(self):
        inputs = keras.layers.Input((2,), dtype=tf.int64)
        model = keras.Model(inputs, keras.layers.Add()([inputs, inputs]))
        with pytest.raises(ExportError, match="int64"):
            Runner(convert(model))


def test_a_file_with_two_inputs_takes_them_by_name() -> None:
    inputs = [keras.layers.Input((2,), name=name) for name in ("b", "a")]
    model = keras.Model(inputs, keras.layers.Subtract()(inputs))
    runner = Runner(convert(model))
    ones = np.ones((3, 2), np.float32)
    assert runner.input_shapes == {"a": (2,), "b": (2,)}
    np.testing.assert_array_equal(runner.predict({"a": ones, "b": 3 * ones}), 2 * ones)
    with pytest.raises(DataError, match=r"for each input.* got one array"):
        runner.predict(ones)


def test_a_file_with_an_input_of_integers() -> None:
    inputs = keras.layers.Input((2,), dtype=tf.int32)
    model = keras.Model(inputs, keras.layers.Embedding(5, 1)(inputs))
    tokens = np.array([[0, 4], [3, 3]])
    found = Runner(convert(model)).predict(tokens)
    np.testing.assert_array_equal(found, model.predict(tokens, verbose=0))


def fixed_reshape(x):
    return tf.reshape(x, (1, 2, 2))


def of_one_sample(function):
    """Returns a file of a function of ``[1, 4]``."""
    signature = tf.TensorSpec((1, 4), tf.float32)
    made = tf.function(function).get_concrete_function(signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([made])
    return converter.convert()


class TestForeignFiles:
    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (tf.reduce_sum, r"each of 1 samples, got outputs of shape \(\)"),
            (
                lambda x: tf.reduce_sum(x, 0),
                r"of 1 samples, got outputs of shape \(4,\)",
            ),
        ],
    )
    def test_without_one_row_for_each_sample(self, function, message):
        runner = Runner(of_one_sample(function))
        with pytest.raises(ExportError, match=message):
            runner.predict(np.ones((3, 4), np.float32))

    def test_shapes_of_one_sample_are_run_sample_by_sample(self):
        samples = np.arange(12, dtype=np.float32).reshape(3, 4)
        found = Runner(of_one_sample(fixed_reshape)).predict(samples)
        np.testing.assert_array_equal(found, samples.reshape(3, 2, 2))
