"""The Keras part: multi-bitwidth quantization for tfmot. Needs TensorFlow.

quantize      float model -> multi-bitwidth model
policies      which policy a model is under; set, get, space
calibration   first steps of activations, from samples
layers        the input's quantizer, batch norm that follows the policy
overview      what is quantized where: a table
checks        samples, weights and steps that can be computed with
saving        loading whole models
stored        files of networks, strangers' too: checked, then read
known_classes what the config of a network may name
quantizers/   fake quantization, tfmot quantizers, tfmot's wrapper, tracers
rewrite/      the model is laid out, quantizers are placed
keras3/       networks of Keras 3: from there, and back
train/        fit under random policies, soft labels, batch norm statistics
packaging/    trained model -> artifact, and its network back
"""

from matar_tf.keras._compat import keras
from matar_tf.keras.calibration import calibrate
from matar_tf.keras.keras3.back import to_keras3
from matar_tf.keras.keras3.convert import from_keras3
from matar_tf.keras.overview import LayerSummary, Summary, summary
from matar_tf.keras.packaging.network import load_network
from matar_tf.keras.packaging.package import package, training_versions
from matar_tf.keras.packaging.record import keras_tensors
from matar_tf.keras.policies import get_policy, get_policy_space, set_policy
from matar_tf.keras.quantize import MatarQuantizeScheme, policy_space, quantize_model
from matar_tf.keras.quantizers.configs import MatarQuantizeConfig
from matar_tf.keras.quantizers.own_kinds import register_layer_kind
from matar_tf.keras.rewrite.prepare import as_layers
from matar_tf.keras.saving import load_model
from matar_tf.keras.train.batch_norm import reestimate_batch_norm
from matar_tf.keras.train.callbacks import PolicyMetrics, PolicyRandomizer
from matar_tf.keras.train.fit_loop import Schedule
from matar_tf.keras.train.kurtosis import KurtosisRegularizer
from matar_tf.keras.train.method import Method
from matar_tf.keras.train.recipe import RecipeConfig, with_variants
from matar_tf.keras.train.train import (
    evaluate_policies,
    load_float,
    multi_bit_trainer,
    train_float,
    train_multi_bit,
)
from matar_tf.keras.train.trainer import MultiBitTrainer
from matar_tf.samplers import (
    BandSampler,
    IndependentSampler,
    LegalSampler,
    MixtureSampler,
    Sampler,
    UniformSampler,
)

__all__ = [
    "BandSampler",
    "IndependentSampler",
    "KurtosisRegularizer",
    "LayerSummary",
    "LegalSampler",
    "MatarQuantizeConfig",
    "MatarQuantizeScheme",
    "Method",
    "MixtureSampler",
    "MultiBitTrainer",
    "PolicyMetrics",
    "PolicyRandomizer",
    "RecipeConfig",
    "Sampler",
    "Schedule",
    "Summary",
    "UniformSampler",
    "as_layers",
    "calibrate",
    "evaluate_policies",
    "from_keras3",
    "get_policy",
    "get_policy_space",
    "keras",
    "keras_tensors",
    "load_float",
    "load_model",
    "load_network",
    "multi_bit_trainer",
    "package",
    "policy_space",
    "quantize_model",
    "reestimate_batch_norm",
    "register_layer_kind",
    "set_policy",
    "summary",
    "to_keras3",
    "train_float",
    "train_multi_bit",
    "training_versions",
    "with_variants",
]
