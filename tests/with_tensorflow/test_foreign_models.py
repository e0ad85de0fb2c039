"""Files that others made with TensorFlow, and TensorFlow's own interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits
from fixtures.processes import predict_alone

from matar_tf.errors import ExportError
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

    def test_file_with_two_inputs(self):
        inputs = [keras.layers.Input((2,)), keras.layers.Input((2,))]
        model = keras.Model(inputs, keras.layers.Add()(inputs))
        with pytest.raises(ExportError, match="one float32 input"):
            Runner(convert(model))

    def test_file_with_another_input_type(self):
        inputs = keras.layers.Input((2,), dtype=tf.int32)
        model = keras.Model(inputs, keras.layers.Add()([inputs, inputs]))
        with pytest.raises(ExportError, match="int32"):
            Runner(convert(model))


def fixed_reshape(x):
    return tf.reshape(x, (1, 2, 2))


class TestForeignFiles:
    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (fixed_reshape, "failed to reshape"),
            (tf.reduce_sum, r"each of 1 samples, got outputs of shape \(\)"),
            (
                lambda x: tf.reduce_sum(x, 0),
                r"of 1 samples, got outputs of shape \(4,\)",
            ),
        ],
    )
    def test_without_one_row_for_each_sample(self, function, message):
        signature = tf.TensorSpec((1, 4), tf.float32)
        made = tf.function(function).get_concrete_function(signature)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([made])
        runner = Runner(converter.convert())
        with pytest.raises(ExportError, match=message):
            runner.predict(np.ones((3, 4), np.float32))
