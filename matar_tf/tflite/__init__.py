"""The integer part: ``.tflite`` files for policies, without TensorFlow."""
