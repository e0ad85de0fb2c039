"""Quantizers, the configs that hand them to tfmot, and its wrapper."""
