"""The Keras part: multi-bitwidth quantization for tfmot. Needs TensorFlow.

quantize           float model -> multi-bitwidth model; set and get its policy
quantize_configs   `MatarQuantizeConfig` for single layers
callbacks          a new policy for every batch; metrics of named policies
trainer            a training step with soft labels and several policies
statistics         batch norm statistics estimated again; kurtosis of kernels
training           float and multi-bitwidth training, resumable
package            trained model -> artifact
recording          what a packaged network computes, tensor by tensor
conversion         the way through the TFLite converter
"""

from matar_tf.keras._compat import keras
from matar_tf.keras.packaging.package import load_network, package, versions
from matar_tf.keras.packaging.record import keras_tensors
from matar_tf.keras.quantize import (
    MatarQuantizeScheme,
    calibrate,
    get_policy,
    get_policy_space,
    load_model,
    policy_space,
    quantize_model,
    set_policy,
)
from matar_tf.keras.quantizers.configs import MatarQuantizeConfig
from matar_tf.keras.train.batch_norm import KurtosisRegularizer, reestimate_batch_norm
from matar_tf.keras.train.callbacks import PolicyMetrics, PolicyRandomizer
from matar_tf.keras.train.fit_loop import Schedule
from matar_tf.keras.train.train import (
    Method,
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
    "LegalSampler",
    "MatarQuantizeConfig",
    "MatarQuantizeScheme",
    "Method",
    "MixtureSampler",
    "MultiBitTrainer",
    "PolicyMetrics",
    "PolicyRandomizer",
    "Sampler",
    "Schedule",
    "UniformSampler",
    "calibrate",
    "evaluate_policies",
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
    "set_policy",
    "train_float",
    "train_multi_bit",
    "versions",
]
