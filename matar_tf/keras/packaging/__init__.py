"""From a trained model to an artifact, and back."""
