"""Networks of Keras 3: from there to tf_keras, and back."""
