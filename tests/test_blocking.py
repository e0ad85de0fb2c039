"""Blocking of fused arrays: by hand, and against the published cycles of Bit Fusion."""

from __future__ import annotations

import dataclasses

import pytest
from fixtures.blocking import (
    BUFFERS,
    PADDED_BUFFERS,
    PUBLISHED_BUFFERS,
    blocking,
    nest,
)

from matar_tf.errors import TargetError


class TestByHand:
    def test_one_multiplication(self):
        found = blocking(nest())
        assert (found.weight_bits, found.input_bits, found.output_bits) == (8, 8, 8)
        assert found.compute_cycles == 1
        assert (found.fill_cycles, found.dram_cycles) == (1 + 1, 0)

    def test_sums_may_cross_the_port_both_ways(self):
        found = blocking(nest(), buffers=PUBLISHED_BUFFERS)
        # One tile has 32 columns of 32-bit sums; they are read and written.
        assert found.output_bits == 2 * 32 * 32
        assert found.fill_cycles == -(-(128 + 8 + 1024) // 192) + -(-1024 // 192)

    @pytest.mark.parametrize(
        ("widths", "rows"), [((8, 8), 16), ((2, 8), 16 * 4), ((2, 2), 16 * 16)]
    )
    def test_weights_may_be_padded_to_the_rows(self, widths, rows):
        found = blocking(nest(), (*widths, 8), PADDED_BUFFERS)
        assert found.weight_bits == rows * widths[0]
        assert blocking(nest(), (*widths, 8)).weight_bits == widths[0]

    def test_narrow_operands_are_never_slower(self):
        loops = nest(output_size=(8, 8), in_channels=16, out_channels=32)
        cycles = {
            bits: total_cycles(blocking(loops, (bits, bits, bits)))
            for bits in (2, 4, 8)
        }
        assert cycles[2] <= cycles[4] <= cycles[8]

    def test_the_inputs_of_a_window_overlap(self):
        loops = nest(output_size=(2, 3), kernel_size=(3, 5), strides=(2, 1))
        # (1 * 2 + 3) rows of (2 * 1 + 5) pixels
        assert blocking(loops, port=1e-3).input_bits == 5 * 7 * 8
        unrolled = dataclasses.replace(loops, unrolled=True)
        assert blocking(unrolled, port=1e-3).input_bits == 2 * 3 * 15 * 8

    def test_weights_that_fit_are_loaded_once_for_a_batch(self):
        loops = nest(batch_size=64, in_channels=16, out_channels=32)
        assert blocking(loops).weight_bits == 16 * 32 * 8
        assert blocking(loops).output_bits == 64 * 32 * 8

    def test_what_does_not_fit_is_loaded_again(self):
        # 128 x 128 inputs of 64 channels and 64 KiB of weights: one of the two is
        # loaded more than once, whatever the order.
        loops = nest(output_size=(128, 128), in_channels=256, out_channels=256)
        inputs, weights = 128 * 128 * 256 * 8, 256 * 256 * 8
        found = blocking(loops, port=1e-3)
        assert found.input_bits + found.weight_bits > inputs + weights
        large = BUFFERS.model_copy(
            update={"weight_bytes": 2**30, "input_bytes": 2**30, "output_bytes": 2**30}
        )
        found = blocking(loops, buffers=large, port=1e-3)
        assert (found.input_bits, found.weight_bits) == (inputs, weights)

    def test_channels_of_their_own_inputs_read_each_input_once(self):
        loops = nest(
            output_size=(8, 8), kernel_size=(3, 3), out_channels=64, channelwise=True
        )
        assert blocking(loops, port=1e-3).input_bits == 64 * 10 * 10 * 8

    @pytest.mark.parametrize("key", ["weight_bytes", "input_bytes", "output_bytes"])
    def test_each_buffer_matters(self, key):
        loops = nest(
            batch_size=16,
            output_size=(16, 16),
            kernel_size=(3, 3),
            in_channels=64,
            out_channels=1024,
        )
        small = BUFFERS.model_copy(update={key: 2048})
        slow, fast = blocking(loops, buffers=small, port=20), blocking(loops, port=20)
        assert total_cycles(slow) > 1.1 * total_cycles(fast)
        with pytest.raises(TargetError, match="hold the smallest tiles"):
            blocking(loops, buffers=BUFFERS.model_copy(update={key: 1}))

    def test_finished_outputs_leave_once_however_they_are_cut(self):
        # 256 x 4 pixels and 32 channels of 32-bit sums are 16 times half the buffer.
        for size in ((4, 256), (256, 4)):
            found = blocking(nest(output_size=size, out_channels=32))
            assert found.output_bits == 4 * 256 * 32 * 8

    @pytest.mark.parametrize("double_buffered", [True, False])
    @pytest.mark.parametrize(
        ("key", "num_bytes"),
        # 16 x 4 taps of one channel, and the sums of 32 columns
        [("weight_bytes", 64), ("input_bytes", 64), ("output_bytes", 32 * 4)],
    )
    def test_both_sides_of_the_smallest_buffer(self, key, num_bytes, double_buffered):
        least = 2 * num_bytes if double_buffered else num_bytes

        def cut(size: int):
            changes = {key: size, "double_buffered": double_buffered}
            buffers = BUFFERS.model_copy(update=changes)
            return blocking(nest(kernel_size=(16, 4)), buffers=buffers)

        assert cut(least).weight_bits == 64 * 8
        with pytest.raises(TargetError, match="hold the smallest tiles"):
            cut(least - 1)

    def test_double_buffering_halves_the_buffers(self):
        loops = nest(batch_size=16, in_channels=4096, out_channels=4096)
        single = BUFFERS.model_copy(update={"double_buffered": False})
        doubled = BUFFERS.model_copy(
            update={
                key: 2 * getattr(BUFFERS, key)
                for key in ("weight_bytes", "input_bytes", "output_bytes")
            }
        )
        assert blocking(loops, buffers=single) == blocking(loops, buffers=doubled)
        assert blocking(loops, buffers=single) != blocking(loops)

    def test_wide_sums_need_more_room(self):
        loops = nest(batch_size=16, in_channels=4096, out_channels=4096)
        wide = BUFFERS.model_copy(update={"accumulator_bits": 128})
        assert total_cycles(blocking(loops, buffers=wide, port=4)) > total_cycles(
            blocking(loops, port=4)
        )


def total_cycles(found) -> float:
    return max(found.compute_cycles, found.dram_cycles) + found.fill_cycles


class TestPublishedCycles:
    """Layers of hsharma35/bitfusion, bitfusion-eyeriss-sim-sweep.csv, batch 16."""

    @pytest.mark.parametrize(
        ("size", "kernel", "strides", "inputs", "outputs", "widths", "cycles"),
        [
            (55, 11, 4, 3, 96, (8, 8), 3_746_423),  # AlexNet, conv1, unrolled
            (27, 5, 1, 96, 256, (4, 4), 5_018_849),  # AlexNet, conv2
            (13, 3, 1, 512, 384, (4, 4), 3_248_129),  # AlexNet, conv3
            (1, 1, 1, 8192, 8192, (4, 4), 1_575_596),  # AlexNet, fc2
            (112, 7, 2, 3, 128, (8, 8), 9_793_537),  # ResNet-18, conv1, unrolled
            (1, 1, 1, 4096, 4096, (4, 4), 394_583),  # RNN
            (1, 1, 1, 3600, 3600, (4, 4), 337_175),  # LSTM
            (32, 3, 1, 128, 128, (2, 2), 799_062),  # CIFAR-10, conv1
        ],
    )
    def test_are_reproduced(
        self, size, kernel, strides, inputs, outputs, widths, cycles
    ):
        loops = nest(
            batch_size=16,
            output_size=(size, size),
            kernel_size=(kernel, kernel),
            strides=(strides, strides),
            in_channels=inputs,
            out_channels=outputs,
            unrolled=inputs == 3,
        )
        found = blocking(loops, (*widths, 8), PUBLISHED_BUFFERS)
        assert total_cycles(found) == cycles
