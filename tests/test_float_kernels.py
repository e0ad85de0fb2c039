"""Kernels of layers in float: where they lie in a template, and how they are filled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from matar_tf.errors import ArtifactError, ModelError
from matar_tf.parameters import LayerParameters
from matar_tf.template_map import KernelPiece, TemplateMap
from matar_tf.tflite._float_kernels import check_pieces, kernel_names, store_pieces
from matar_tf.tflite._pieces import code_values, view_of
from matar_tf.tflite._schema import schema, set_buffer, tensor_array

PLACES = np.arange(24).reshape(2, 3, 4)  # of a kernel's values


class TestViews:
    @pytest.mark.parametrize(
        ("piece", "view"),
        [
            (PLACES, (0, (24,), (1,))),
            (PLACES.transpose(2, 0, 1), (0, (4, 6), (1, 4))),
            (PLACES.transpose(2, 1, 0), (0, (4, 3, 2), (1, 4, 12))),
            (PLACES[:, 1:2, :], (4, (2, 4), (12, 1))),
            (PLACES[1, 2, 3], (23, (), ())),
            (np.broadcast_to(PLACES[0, :, :1], (3, 2)), (0, (3, 2), (4, 0))),
        ],
    )
    def test_a_kernel_transposed_or_cut(self, piece: Any, view: Any) -> None:
        assert view_of(np.asarray(piece).reshape(-1)) == view

    @pytest.mark.parametrize("places", [[0, 1, 3, 4, 8, 9], [3, 2, 1], [0, 1, 5]])
    def test_what_is_no_view(self, places: list[int]) -> None:
        assert view_of(np.array(places)) is None

    def test_codes_are_numbers_of_their_own(self) -> None:
        first, second = code_values(0, (3, 5)), code_values(15, (1000,))
        both = np.concatenate([first.reshape(-1), second])
        assert len(set(both.tolist())) == 1015
        assert np.isfinite(both).all()


def piece(**changes: Any) -> KernelPiece:
    fields = {"tensor": 0, "offset": 0, "sizes": (4, 6), "strides": (1, 4)}
    return KernelPiece(**{**fields, **changes})


class TestMap:
    def test_round_trip(self) -> None:
        places = TemplateMap(
            tensors={},
            kernels={},
            clamps={},
            before_clamps=(),
            islands={"norm": (3, 4)},
            pieces={"lstm/kernel": (piece(),), "unread": ()},
        )
        assert TemplateMap.from_json(places.to_json()) == places

    def test_a_map_without_layers_in_float_is_as_it_was(self) -> None:
        places = TemplateMap(tensors={}, kernels={}, clamps={}, before_clamps=())
        assert set(places.to_json()) == {
            *("tensors", "kernels", "clamps", "before_clamps")
        }

    @pytest.mark.parametrize(
        "changes",
        [{"offset": -1}, {"sizes": [0, 6]}, {"strides": [1]}, {"strides": [-1, 4]}],
    )
    def test_a_piece_outside_is_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ArtifactError, match="of a kernel's piece"):
            KernelPiece.from_json({**piece().to_json(), **changes})


def model_of(shape: tuple[int, ...]) -> Any:
    """Returns a model of one constant and a DEQUANTIZE of it."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    tensor, code, reader = schema.TensorT(), schema.OperatorCodeT(), schema.OperatorT()
    tensor.shape, tensor.type = np.array(shape, np.int32), schema.TensorType.INT8
    model.buffers = [schema.BufferT()]
    set_buffer(model, tensor, np.zeros(shape, np.int8))
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    reader.opcodeIndex, reader.inputs, reader.outputs = 0, [0], [1]
    model.operatorCodes, model.subgraphs = [code], [graph]
    graph.tensors, graph.operators = [tensor, schema.TensorT()], [reader]
    return model


def layer(per_channel: bool = True) -> LayerParameters:
    kernel = np.linspace(-1.0, 1.0, 24, dtype=np.float32).reshape(6, 4)
    steps = [[0.5, 0.25, 0.125, 0.3], [0.01, 0.02, 0.03, 0.04]]
    step = np.array(steps if per_channel else [[0.5], [0.01]], np.float32)
    return LayerParameters(kernel=kernel, channel_axis=1, bits=(2, 8), step=step)


class TestFilling:
    @pytest.mark.parametrize("per_channel", [True, False])
    def test_a_transposed_kernel_has_its_levels_and_steps(
        self, per_channel: bool
    ) -> None:
        model, one = model_of((4, 6)), layer(per_channel)
        stored = store_pieces(model, "lstm", [piece()], one, 2, "int8")
        assert (stored.bits, stored.stored_bits, stored.note) == (2, 8, None)
        tensor = model.subgraphs[0].tensors[0]
        assert tensor.name == "lstm/kernel"
        step = one.step[0]
        levels = np.floor(np.clip(one.kernel / step, -2, 1) + 0.5)
        np.testing.assert_array_equal(tensor_array(model, tensor), levels.T)
        np.testing.assert_array_equal(tensor.quantization.scale, step)
        assert tensor.quantization.quantizedDimension == 0

    def test_packed_where_the_runtime_unpacks_it(self) -> None:
        model = model_of((4, 6))
        stored = store_pieces(model, "a", [piece()], layer(), 2, "packed-litert")
        tensor = model.subgraphs[0].tensors[0]
        assert stored.stored_bits == 2
        assert tensor.type == schema.TensorType.INT2
        assert len(model.buffers[tensor.buffer].data) == 6
        portable = store_pieces(
            model_of((4, 6)), "a", [piece()], layer(), 2, "packed-portable"
        )
        assert portable.stored_bits == 8
        assert portable.note is not None

    @pytest.mark.parametrize(
        ("shape", "changes"),
        [
            ((4, 6), {"offset": 1}),  # beyond the end
            ((3, 8), {}),  # channels on no axis
        ],
    )
    def test_pieces_of_another_kernel(
        self, shape: tuple[int, ...], changes: dict[str, Any]
    ) -> None:
        with pytest.raises(ModelError, match="of whole channels each"):
            check_pieces(model_of(shape), "a", [piece(**changes)], layer())

    def test_names(self) -> None:
        assert kernel_names("a", 0) == []
        assert kernel_names("a", 1) == ["a/kernel"]
        assert kernel_names("a", 2) == ["a/kernel", "a/kernel/1"]
