"""The Keras part: the only folder that knows TensorFlow."""
