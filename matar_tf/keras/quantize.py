"""Turning a float Keras model into a multi-bitwidth one, and setting its policy."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from matar_tf.errors import DataError, ModelError
from matar_tf.keras._compat import keras, tf, tfmot
from matar_tf.keras.layers import InputQuantize, MultiBitBatchNormalization
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import MatarQuantizeConfig
from matar_tf.keras.quantizers.tracing import tracing
from matar_tf.keras.rewrite.layout import check_model, lay_out
from matar_tf.keras.rewrite.placement import apply_space, plan_layout
from matar_tf.policy import Policy
from matar_tf.space import PolicySpace

__all__ = [
    "NORM_CONTEXT",
    "MatarQuantizeScheme",
    "PolicySetter",
    "calibrate",
    "get_policy",
    "get_policy_space",
    "load_model",
    "policy_space",
    "quantize_model",
    "set_policy",
]

NORM_CONTEXT = 12  # entries before a layer that its batch norm's statistics follow

_tfmot = tfmot.quantization.keras


class _LayoutTransform(_tfmot.QuantizeLayoutTransform):
    """Lays the model out and gives every layer its MATAR config."""

    def __init__(
        self,
        space: PolicySpace | None,
        signed_inputs: bool,
        norm_context: int,
    ) -> None:
        self._space = space
        self._signed_inputs = signed_inputs
        self._norm_context = norm_context

    def apply(
        self, model: Any, layer_quantize_map: Mapping[str, Mapping[str, Any]]
    ) -> tuple[Any, dict[str, dict[str, Any]]]:
        """Returns the laid-out model and the config of each layer to wrap."""
        given = {
            name: _own_config(entry.get("quantize_config"))
            for name, entry in layer_quantize_map.items()
        }
        check_model(model, only=given)
        plan = plan_layout(
            lay_out(model, only=given), given=given, signed_inputs=self._signed_inputs
        )
        if self._space is not None:
            plan = apply_space(plan, self._space)
        layout = lay_out(
            model,
            only=given,
            space=plan.space,
            contexts=plan.contexts(self._norm_context),
            signed_inputs=self._signed_inputs,
        )
        configs = {
            name: {"quantize_config": config} for name, config in plan.configs.items()
        }
        return layout.model, configs


class _Registry(_tfmot.QuantizeRegistry):
    """Knows no layer: the layout transform has given every layer its config."""

    def supports(self, layer: Any) -> bool:
        """Returns whether tfmot may ask for the config of `layer`: never."""
        return False

    def get_quantize_config(self, layer: Any) -> Any:
        """Raises; tfmot asks only for layers that are supported.

        Raises:
          ModelError: Always.
        """
        raise ModelError(f"Layer {layer.name!r} has no place in the quantization plan.")


class MatarQuantizeScheme(_tfmot.QuantizeScheme):
    """The scheme that makes ``tfmot.quantization.keras.quantize_apply`` multi-bitwidth.

    Args:
      space: Widths of every policy entry; None for `policy_space` of the model.
      signed_inputs: Whether the network's samples have values below 0; if not, all
        256 levels of the input quantizer serve the positive range.
      norm_context: Number of entries before a layer, the nearest first, by whose
        widths its batch norm keeps statistics apart, beside its own.

    Raises:
      ModelError: If `norm_context` is below 0.
    """

    def __init__(
        self,
        space: PolicySpace | None = None,
        *,
        signed_inputs: bool = True,
        norm_context: int = NORM_CONTEXT,
    ) -> None:
        if norm_context < 0:
            raise ModelError(
                f"Expected a norm_context of at least 0, got {norm_context}."
            )
        self._space = space
        self._signed_inputs = signed_inputs
        self._norm_context = norm_context

    def get_layout_transformer(self) -> _LayoutTransform:
        """Returns the transform that prepares a model; called by tfmot."""
        return _LayoutTransform(
            self._space,
            self._signed_inputs,
            self._norm_context,
        )

    def get_quantize_registry(self) -> _Registry:
        """Returns the registry; called by tfmot."""
        return _Registry()


def policy_space(model: Any) -> PolicySpace:
    """Returns the default policy space of a float model.

    Every entry may take 2..8 bits, except the network input, the first and the last
    compute layer, the latter's input and the output, which stay at 8; free them with
    `PolicySpace.with_choices`.

    Raises:
      ModelError: If the model cannot be quantized.
    """
    check_model(model)
    return plan_layout(lay_out(model)).space


def quantize_model(
    model: Any,
    space: PolicySpace | None = None,
    *,
    signed_inputs: bool = True,
    norm_context: int = NORM_CONTEXT,
) -> Any:
    """Returns a multi-bitwidth copy of a float model; trains with plain ``fit``.

    The short form of annotating the whole model with tfmot and applying
    `MatarQuantizeScheme`.

    Args:
      model: A built Functional or Sequential tf_keras model.
      space: Widths of every policy entry; None for `policy_space` of the model.
      signed_inputs: Whether the samples have values below 0.
      norm_context: Number of entries before a layer, the nearest first, by whose
        widths its batch norm keeps statistics apart, beside its own.

    Raises:
      ModelError: If the model cannot be quantized.
      PolicyError: If the space does not fit the model.
    """
    check_model(model)
    scheme: Any = MatarQuantizeScheme(
        space,
        signed_inputs=signed_inputs,
        norm_context=norm_context,
    )
    return _tfmot.quantize_apply(_tfmot.quantize_annotate_model(model), scheme=scheme)


class PolicySetter:
    """Writes policies into a model: one call of one traced function each.

    Args:
      model: A multi-bitwidth model.

    Raises:
      ModelError: If the model has no multi-bitwidth quantizers.
    """

    def __init__(self, model: Any) -> None:
        self._variables: list[Any] = []  # each holds the rows of the next slots
        self._slots: list[tuple[str, str, dict[int, int]]] = []
        weights: dict[str, tuple[int, ...]] = {}
        activations: dict[str, tuple[int, ...]] = {}
        for layer in model.layers:
            for quantizer in wrapper.all_quantizers(layer):
                entries = weights if quantizer.kind == "weights" else activations
                entries[quantizer.entry] = quantizer.bits
                entry = quantizer.kind, quantizer.entry, quantizer.bits
                self._add(quantizer.row, [entry])
            inner = wrapper.inner_layer(layer)
            if isinstance(inner, MultiBitBatchNormalization):
                self._add(inner.rows, inner.entries)
        if not self._variables:
            raise ModelError(
                f"Expected a multi-bitwidth model, but {model.name!r} has no MATAR "
                "quantizers; make one with matar_tf.quantize_model."
            )
        self.space = PolicySpace(weights=weights, activations=activations)
        self._assign = tf.function(self._assign_rows, autograph=False)

    def __call__(self, policy: Policy | str) -> None:
        """Puts a policy, or a uniform one by its name, in force.

        Raises:
          PolicyError: If the policy does not fit the model.
        """
        if isinstance(policy, str):
            policy = self.space.named(policy)
        self.space.validate(policy)
        self.assign_rows(self.rows(policy))

    def rows(self, policy: Policy) -> np.ndarray:
        """Returns the row of every bank under a valid policy, int32."""
        bits = {"weights": policy.weights, "activations": policy.activations}
        return np.array(
            [row_of[bits[kind][entry]] for kind, entry, row_of in self._slots], np.int32
        )

    def rows_in_force(self) -> Any:
        """Returns the row of every bank in force, an int32 tensor."""
        return tf.concat([tf.reshape(one, (-1,)) for one in self._variables], axis=0)

    def assign_rows(self, rows: Any) -> None:
        """Puts what `rows` or `rows_in_force` returned in force."""
        self._assign(tf.convert_to_tensor(rows))

    def current(self) -> Policy:
        """Returns the policy in force."""
        return self.policy(self.rows_in_force().numpy())

    def policy(self, rows: np.ndarray) -> Policy:
        """Inverts `rows`."""
        chosen: dict[str, dict[str, int]] = {"weights": {}, "activations": {}}
        for (kind, entry, row_of), row in zip(self._slots, rows, strict=True):
            chosen[kind][entry] = list(row_of)[int(row)]
        return Policy(weights=chosen["weights"], activations=chosen["activations"])

    def _add(
        self, variable: Any, entries: Sequence[tuple[str, str, tuple[int, ...]]]
    ) -> None:
        self._variables.append(variable)
        for kind, entry, bits in entries:
            row_of = {width: number for number, width in enumerate(bits)}
            self._slots.append((kind, entry, row_of))

    def _assign_rows(self, rows: Any) -> None:
        start = 0
        for variable in self._variables:
            size = variable.shape.num_elements()
            variable.assign(tf.reshape(rows[start : start + size], variable.shape))
            start += size


_SETTERS: weakref.WeakKeyDictionary[Any, PolicySetter] = weakref.WeakKeyDictionary()


def policy_setter(model: Any) -> PolicySetter:
    """Returns the setter of a model (or of its trainer), made at the first call."""
    model = wrapper.multi_bit_network(model)
    if model not in _SETTERS:
        _SETTERS[model] = PolicySetter(model)
    return _SETTERS[model]


def set_policy(model: Any, policy: Policy | str) -> None:
    """Puts a policy in force: a `Policy`, or the name of a uniform one (``w4a8``).

    Raises:
      PolicyError: If the policy does not fit the model.
    """
    policy_setter(model)(policy)


def get_policy(model: Any) -> Policy:
    """Returns the policy in force."""
    return policy_setter(model).current()


def get_policy_space(model: Any) -> PolicySpace:
    """Returns the policy space of a multi-bitwidth model."""
    return policy_setter(model).space


class _Calibrator:
    """A tracer that initialises every activation quantizer on its way.

    It sees the float network: batch norms only know the statistics of that one, and
    behind narrow kernels they would shrink what comes after.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def weights(self, quantizer: Any, x: Any) -> Any:
        return x

    def bias(self, quantizer: Any, x: Any) -> Any:
        return x

    def activation(self, quantizer: Any, x: Any) -> Any:
        is_seen, is_silent = id(quantizer) in self._seen, not np.any(x)
        if is_seen and is_silent:
            return x
        before = tf.identity(quantizer.log_steps)
        quantizer.initialize(x)
        if is_seen:
            # A grid that several tensors share must reach as far as the widest needs.
            quantizer.log_steps.assign(tf.maximum(before, quantizer.log_steps))
        if not is_silent:
            self._seen.add(id(quantizer))
        return x

    def fixed_grid(self, quantizer: Any, x: Any) -> Any:
        return x

    def input_grid(self, quantizer: Any, x: Any) -> Any:
        return x

    def batch_norm(self, layer: Any, x: Any) -> Any:
        scale, offset = layer.folded()
        return x * scale + offset


def calibrate(model: Any, samples: Any) -> None:
    """Sets the steps of all activations to fit some samples; labels are not needed.

    They fit what the tensors are without any quantization, whatever the policy.
    Training does this by itself on its first batch; call this to evaluate or export
    without training, or to start training from more samples than one batch.

    Args:
      model: A multi-bitwidth model, or its trainer.
      samples: A batch for the model's input, ``[num_samples, ...]``, float.

    Raises:
      DataError: If the samples do not fit the model's input, are not finite, or so
        small that they count as zero.
      ModelError: If the model has no multi-bitwidth quantizers, or several inputs.
    """
    policy_setter(model)  # refuses a model without quantizers
    model = wrapper.multi_bit_network(model)
    shape = tuple(np.shape(samples))
    if not wrapper.fits_input(model, shape) or not shape[0]:
        raise DataError(
            f"Expected samples of shape {tuple(model.input_shape)}, got {shape}; pass "
            "a batch."
        )
    wrapper.check_finite_samples(samples)
    wrapper.check_magnitude(samples)
    with tracing(_Calibrator()):
        model.call(tf.convert_to_tensor(samples, tf.float32), training=False)


def load_model(path: str, **kwargs: Any) -> Any:
    """Loads a whole multi-bitwidth model saved as HDF5 or SavedModel.

    The same as ``tf_keras.models.load_model`` after ``import matar_tf.keras``, which
    registers all classes; no ``quantize_scope`` is needed.
    """
    return keras.models.load_model(path, **kwargs)


def _own_config(config: Any) -> MatarQuantizeConfig | None:
    if config is None or isinstance(config, MatarQuantizeConfig):
        return config
    return MatarQuantizeConfig(config)


def _register_tfmot_objects() -> None:
    """Lets Keras load tfmot's wrapper without a ``quantize_scope``, and freeze it."""
    for objects in _tfmot.quantize_scope().custom_objects:
        keras.utils.get_custom_objects().update(objects)
    kind = keras.utils.get_custom_objects()["QuantizeWrapperV2"]
    wrapper.honour_freezing(kind, MatarQuantizeConfig)
    # HDF5 files name the layer inside a wrapper without its package.
    for kind in (InputQuantize, MultiBitBatchNormalization):
        keras.utils.get_custom_objects()[kind.__name__] = kind


_register_tfmot_objects()
