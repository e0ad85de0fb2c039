"""Rules of arrays beyond those of test_cost: NE16, output blocks, latency tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fixtures.paths import TARGETS

from matar_tf.errors import ModelError, PolicyError, TargetError
from matar_tf.pricing import check_policy
from matar_tf.pricing.arrays import peak_macs_per_cycle
from matar_tf.pricing.demand import layer_shape
from matar_tf.pricing.model import CostModel, estimate
from matar_tf.reporting.target_page import describe_target
from matar_tf.targets import Target, list_targets, load_target
from matar_tf.workload import OpKind
from tools.benchmarks.reference_networks import (
    NetworkBuilder,
    mobilenet_v1,
    uniform_policy,
)


def conv_net(kernel=3, size=9, inputs=20, outputs=40, *, bias=True, depthwise=False):
    net = NetworkBuilder((size, size, inputs), bias=bias)
    if depthwise:
        net.depthwise(net.input, kernel)
    else:
        net.conv(net.input, outputs, kernel, name="conv")
    return net.build()


def cycles(workload, target: Target, weights=8, activations=8) -> float:
    policy = uniform_policy(workload, weights, activations)
    cost = estimate(workload, policy, target)
    return cost.layers[0].cycles - target.overhead.layer_cycles


class TestNe16:
    """9 x 9 pixels are 3 * 3 tiles; 40 channels are a tile of 32 and one of 8."""

    @pytest.mark.parametrize("bits", [2, 5, 8])
    def test_a_3x3_kernel_takes_time_by_weight_bits(self, bits):
        def tile(num: int) -> int:
            # 2 steps of 16 inputs; bias: 8 + ceil(num / 8)
            step = 31 + 6 + (6 + num * bits) + 2
            return 2 * step + (9 + num) + (8 + -(-num // 8)) + 13

        expected = 0.71 * 9 * (tile(32) + tile(8))
        found = cycles(conv_net(), load_target("ne16_gap9"), bits)
        assert found == pytest.approx(expected)

    @pytest.mark.parametrize("bits", [2, 8])
    def test_a_1x1_kernel_does_not(self, bits):
        expected = 0.71 * 9 * (2 * (19 + 6 + 38 + 2) + 41 + 12 + 13)
        net = conv_net(kernel=1, outputs=32)
        assert cycles(net, load_target("ne16_gap9"), bits) == pytest.approx(expected)

    def test_a_depthwise_kernel_has_tiles_of_16_channels(self):
        # 20 channels: 16 and 4; one step each; without a bias.
        def tile(num: int) -> int:
            return 31 + (6 + num) + (6 + 8 * num) + 2 + (9 + num) + 13

        expected = 0.71 * 9 * (tile(16) + tile(4))
        net = conv_net(depthwise=True, bias=False)
        assert cycles(net, load_target("ne16_gap9")) == pytest.approx(expected)

    def test_other_kernels_are_put_together(self):
        # 10 x 4 taps are three 3x3 kernels and thirteen 1x1 kernels.
        target = load_target("ne16_gap9")
        both = 3 * cycles(conv_net(3), target) + 13 * cycles(conv_net(1), target)
        assert cycles(conv_net((10, 4)), target) == pytest.approx(both)

    def test_narrow_inputs_are_refused(self, tmp_path):
        text = catalogue_text("ne16_gap9").replace(
            "activation_bits = [8]", "activation_bits = [4, 8]"
        )
        with pytest.raises(TargetError, match=r"inputs of 8 bits.*'ne16', got 4"):
            load_text(text, tmp_path)


class TestMeasuredRates:
    """A rate may say what a layer takes besides its multiplications."""

    def target(self, folder: Path, more: str) -> Target:
        text = catalogue_text("cortex_m7")
        start = text.index("[[compute.rates]]")
        stop = text.index("[[ops]]")
        rate = (
            "[[compute.rates]]\nweight_bits = [8]\nactivation_bits = [8]\n"
            f"cycles_per_mac = 2.0\n{more}\n"
        )
        return load_text(text[:start] + rate + text[stop:], folder)

    # 9 x 9 pixels, 9 taps, 20 and 40 channels; in steps of 8 and 16 these are 24, 48.
    @pytest.mark.parametrize(
        ("more", "expected"),
        [
            ("", 2.0 * 81 * 9 * 20 * 40),
            ("cycles_per_input = 3.0", 2.0 * 81 * 9 * 20 * 40 + 3.0 * 81 * 20),
            ("cycles_per_output = 3.0", 2.0 * 81 * 9 * 20 * 40 + 3.0 * 81 * 40),
            ("cycles_per_weight = 3.0", 2.0 * 81 * 9 * 20 * 40 + 3.0 * 9 * 20 * 40),
            ("input_step = 8", 2.0 * 81 * 9 * 24 * 40),
            ("output_step = 16", 2.0 * 81 * 9 * 20 * 48),
            ("input_step = 20\noutput_step = 40", 2.0 * 81 * 9 * 20 * 40),
        ],
    )
    def test_of_a_convolution(self, more, expected, tmp_path):
        found = cycles(conv_net(), self.target(tmp_path, more))
        assert found == pytest.approx(expected)

    def test_of_a_depthwise_one_channels_are_outputs(self, tmp_path):
        target = self.target(tmp_path, "input_step = 64\noutput_step = 16")
        found = cycles(conv_net(depthwise=True), target)
        assert found == pytest.approx(2.0 * 81 * 9 * 32)

    def test_the_page_shows_them(self, tmp_path):
        page = describe_target(self.target(tmp_path, "cycles_per_weight = 0.25"))
        assert "cycles_per_mac = 2.0, cycles_per_weight = 0.25 at 8 x 8" in page


class TestOutputBlocks:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            # 9 taps * ceil(20 / 8) inputs * ceil(9 / 2) * 9 * ceil(40 / 8) blocks
            ("ethos_u55_128", 1.34 * 9 * 3 * 5 * 9 * 5),
            ("ethos_u55_256", 1.5 * 9 * 3 * 5 * 5 * 5),
        ],
    )
    def test_a_convolution_fills_blocks(self, name, expected, tmp_path):
        text = catalogue_text(name).replace("bits_per_cycle = 7.5", "bits_per_cycle=75")
        target = load_text(text, tmp_path)
        assert cycles(conv_net(), target) == pytest.approx(expected)

    def test_a_depthwise_layer_takes_four_taps_at_once(self):
        expected = 1.34 * 4 * 3 * 5 * 9 * 3
        net = conv_net(depthwise=True)
        assert cycles(net, load_target("ethos_u55_128")) == pytest.approx(expected)

    def test_each_output_takes_its_time(self):
        # One input channel and one tap: 5 * 9 * 5 blocks against 0.5 * 9 * 9 * 40.
        net = conv_net(kernel=1, inputs=1)
        expected = 1.34 * 0.5 * 81 * 40
        assert cycles(net, load_target("ethos_u55_128")) == pytest.approx(expected)

    @pytest.mark.parametrize(("bits", "stored"), [(8, 8.17), (4, 4.13), (2, 1.68)])
    def test_a_dense_layer_waits_for_its_coded_weights(self, bits, stored):
        net = NetworkBuilder((512,))
        net.dense(net.input, 1024)
        workload, target = net.build(), load_target("ethos_u55_128")
        num_bits = 512 * 1024 * stored
        cost = estimate(workload, uniform_policy(workload, bits, 8), target)
        assert cost.layers[0].bound == "weight_load"
        assert cost.layers[0].cycles == pytest.approx(num_bits / 7.5)
        assert cost.weight_bytes == -(-num_bits // 8) + 4 * 1024

    def test_tensors_take_up_their_containers(self, tmp_path):
        text = catalogue_text("ethos_u55_128").replace(
            "activation_bits = [8, 16]", "activation_bits = [4, 8, 16]"
        )
        workload, target = conv_net(), load_text(text, tmp_path)
        wide, narrow = (
            estimate(workload, uniform_policy(workload, 8, bits), target)
            for bits in (8, 4)
        )
        assert wide.peak_activation_bytes == narrow.peak_activation_bytes
        assert wide.cycles == narrow.cycles

    def test_each_width_of_weights_needs_its_storage(self, tmp_path):
        text = catalogue_text("ethos_u55_128").replace(
            "  { weight_bits = 5, stored_bits = 5.11 },\n", ""
        )
        with pytest.raises(
            TargetError, match=r"one entry of storage\.kernels for each"
        ):
            load_text(text, tmp_path)


class TestCache:
    def test_weights_beyond_the_cache_are_sent_again(self, tmp_path):
        workload = mobilenet_v1(96, 0.25, 2)
        policy = uniform_policy(workload, 8, 8)
        large = load_target("edge_tpu_coral")
        text = catalogue_text("edge_tpu_coral").replace("8_000_000", "100_000")
        small = load_text(text, tmp_path)
        fits, lacks = (estimate(workload, policy, one) for one in (large, small))
        assert fits.network_cycles == 1_920_000
        missing = (fits.weight_bytes - 100_000) / 0.474
        assert lacks.network_cycles == pytest.approx(1_920_000 + missing)
        assert lacks.cycles - fits.cycles == pytest.approx(missing)
        # 2 W at 1 GHz are 2 nJ per cycle.
        assert lacks.energy_pj - fits.energy_pj == pytest.approx(2_000 * missing)

    def test_the_two_keys_belong_together(self, tmp_path):
        text = catalogue_text("edge_tpu_coral").replace(
            "reload_bytes_per_cycle = 0.474\n", ""
        )
        with pytest.raises(TargetError, match="weight_cache_bytes and reload_bytes"):
            load_text(text, tmp_path)


TABLE = """layer,weight_bits,activation_bits,value,unit
conv,8,8,2,us
conv:k3x3:s1x1:g1:9x9x20:9x9x40,4,8,300,cycles
mean_1,,8,0.001,ms
"""


@pytest.fixture
def table_target(tmp_path: Path) -> Target:
    return load_table(TABLE, tmp_path)


def load_table(csv: str, folder: Path) -> Target:
    text = catalogue_text("t4")
    start, stop = text.index("[compute]"), text.index("[[ops]]")
    compute = '[compute]\nkind = "table"\nfile = "table.csv"\nsource = "x"\n\n'
    (folder / "table.csv").write_text(csv, encoding="utf-8")
    text = text[:start] + compute + text[stop:]
    text = text.replace("frequency_hz = 1_590_000_000", "frequency_hz = 1_000_000_000")
    return load_text(text.replace("weight_bits = [4]", "weight_bits = [2, 4]"), folder)


class TestLatencyTable:
    def workload(self):
        net = NetworkBuilder((9, 9, 20))
        net.mean(net.conv(net.input, 40, 3, name="conv"))
        return net.build()

    def test_the_page_says_how_many_rows_there_are(self, table_target):
        page = describe_target(table_target)
        assert "compute.entries = 3 measured rows" in page
        assert "operands: - MAC per cycle" in page

    def test_no_peak_without_convolutions_on_the_array(self, tmp_path):
        text = catalogue_text("t4").replace('kinds = ["conv", ', "kinds = [")
        target = load_text(text, tmp_path)
        assert not target.ops_for(OpKind.CONV)
        assert "operands: - MAC per cycle" in describe_target(target)

    def test_the_page_writes_truth_as_toml_does(self):
        assert "double_buffered = true" in describe_target(
            load_target("bitfusion_16x32")
        )

    def test_layers_are_found_by_name_and_by_shape(self, table_target):
        workload = self.workload()
        policy = uniform_policy(workload, 8, 8)
        conv, mean = estimate(workload, policy, table_target).layers
        assert (conv.cycles, conv.bound) == (pytest.approx(2_000), "measured")
        assert (mean.cycles, mean.bound) == (pytest.approx(1_000), "measured")
        layer = workload.layers[0]
        assert layer_shape(layer, (9, 9, 20), (9, 9, 40)) in TABLE

    def test_the_shape_serves_where_the_name_does_not(self, tmp_path):
        csv = TABLE.replace(",4,8,300", ",4,4,300")
        workload, target = self.workload(), load_table(csv, tmp_path)
        cost = estimate(workload, uniform_policy(workload, 4, 4), target)
        assert cost.layers[0].cycles == 300
        # No row for the mean at 4 bits: the rule of the target, bound by memory.
        assert cost.layers[1].cycles == pytest.approx((3240 + 40) * 4 / 1610)

    def test_a_missing_row_is_an_error_that_says_which(self, table_target):
        workload = self.workload()
        with pytest.raises(TargetError, match=r"'conv:k3x3:s1x1:g1:9x9x20:9x9x40'"):
            estimate(workload, uniform_policy(workload, 4, 4), table_target)

    def test_only_the_array_needs_its_rows(self, table_target):
        workload = self.workload()
        policy = uniform_policy(workload, 4, 4)
        (found,) = check_policy(workload, policy, table_target)
        assert found.constraint == "constraint_latency_table"
        assert found.layer == found.weights == "conv"
        assert found.activations == workload.tensors[workload.inputs[0]].activation
        assert found.activations is not None

    @pytest.mark.parametrize(
        ("value", "cycles"),
        [("3,cycles", 3), ("3e-6,s", 3e3), ("3,ms", 3e6), ("3,us", 3e3), ("3,ns", 3)],
    )
    def test_times_count_at_the_clock(self, value, cycles, tmp_path):
        target = load_table(TABLE.replace("2,us", value), tmp_path)
        entry = target.compute.entries[0]
        assert (entry.layer, entry.cycles) == ("conv", pytest.approx(cycles))
        assert hash(target) == hash(load_target(tmp_path / "edited.toml"))

    def test_a_batch_takes_as_many_times(self, table_target):
        workload = self.workload()
        policy = uniform_policy(workload, 8, 8)
        cost = estimate(workload, policy, table_target, batch_size=3)
        assert cost.layers[0].cycles == pytest.approx(6_000)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("value", "valu", "Unknown column 'valu'.*Did you mean 'value'"),
            (",unit\n", "\n", "Expected the columns"),
            ("2,us", "2,uss", "line 2 .*expected a unit.*Did you mean 'us'"),
            ("2,us", "two,us", "line 2 .*a number as value"),
            ("conv,8,8", "conv,8.5,8", "whole numbers of bits"),
            ("mean_1,,8", "conv,8,8", "line 4 .*a second row"),
            (
                "2,us",
                "-2,us",
                r"line 2 of .*table\.csv.*value of 1e-15 to .*got '-2' us",
            ),
            ("conv,8,8", "conv,9,8", r"line 2 of .*table\.csv.*in 2\.\.8, got 9"),
        ],
    )
    def test_a_mistake_is_named(self, old, new, message, tmp_path):
        assert old in TABLE
        with pytest.raises(TargetError, match=message):
            load_table(TABLE.replace(old, new, 1), tmp_path)

    def test_a_missing_file_is_named(self, table_target, tmp_path):
        (tmp_path / "table.csv").unlink()
        with pytest.raises(TargetError, match=r"latency table at .*table\.csv"):
            load_target(tmp_path / "edited.toml")

    def test_a_wrong_clock_is_the_only_mistake(self, table_target, tmp_path):
        path = tmp_path / "edited.toml"
        text = path.read_text("utf-8").replace("frequency_hz = 1_000", "hertz = 1_000")
        path.write_text(text, "utf-8")
        with pytest.raises(TargetError) as caught:
            load_target(path)
        assert "2 mistakes" in str(caught.value)
        assert "clock.frequency_hz" in str(caught.value)
        assert "clock.hertz" in str(caught.value)

    def test_rows_do_not_stand_in_the_target_file(self, table_target, tmp_path):
        text = (tmp_path / "edited.toml").read_text()
        text = text.replace('file = "table.csv"', 'file = "table.csv"\nentries = []')
        with pytest.raises(TargetError, match=r"Unknown key compute\.entries"):
            load_text(text, tmp_path)


class TestOwnCostFunction:
    def test_it_prices_the_layers_that_it_wants_to(self):
        target = load_target("mpic")
        net = NetworkBuilder((9, 9, 20))
        net.mean(net.conv(net.input, 40, 3, name="conv"))
        workload = net.build()
        policy = uniform_policy(workload, 4, 8)

        def price(demand, used):
            assert used is target
            return 7.0 * demand.weight_bits if demand.weight_bits else None

        plain = estimate(workload, policy, target)
        own = CostModel(workload, target, price_layer=price).estimate(policy)
        assert (own.layers[0].cycles, own.layers[0].bound) == (28, "own")
        assert own.layers[1] == plain.layers[1]

    @pytest.mark.parametrize(
        "value",
        [
            *(0.0, -1.0, float("nan"), float("inf"), 1e308, 1e-300, "5", 1j),
            *(np.array([5.0]), pytest.param(10**400, id="huge")),
        ],
    )
    def test_it_returns_a_figure_of_a_target(self, value):
        workload = conv_net()
        model = CostModel(workload, load_target("mpic"), price_layer=lambda *_: value)
        with pytest.raises(TargetError, match="positive number of cycles"):
            model.estimate(uniform_policy(workload, 8, 8))

    @pytest.mark.parametrize("value", [5, np.float32(5.0), np.int64(5)])
    def test_its_number_may_be_of_any_type(self, value):
        workload = conv_net()
        model = CostModel(workload, load_target("mpic"), price_layer=lambda *_: value)
        cost = model.estimate(uniform_policy(workload, 8, 8))
        assert type(cost.latency_ms) is float
        assert {one.cycles for one in cost.layers} == {5.0}

    def test_events_have_no_energy_for_it(self):
        workload = conv_net()
        model = CostModel(
            workload, load_target("bitfusion_16x32"), price_layer=lambda *_: 9.0
        )
        cost = model.estimate(uniform_policy(workload, 8, 8))
        assert (cost.layers[0].cycles, cost.energy_pj) == (9.0, None)


class TestBatch:
    def test_weights_cross_the_port_once_for_a_batch(self):
        net = NetworkBuilder((64,))
        net.dense(net.input, 64)
        workload, target = net.build(), load_target("t4")
        policy = uniform_policy(workload, 8, 8)
        one, ten = (
            estimate(workload, policy, target, batch_size=size) for size in (1, 10)
        )
        assert one.cycles == pytest.approx((4096 + 256 + 128) * 8 / 1610)
        assert ten.cycles == pytest.approx((4096 + 256 + 1280) * 8 / 1610)
        assert (ten.macs, ten.bops) == (10 * one.macs, 10 * one.bops)
        assert ten.peak_activation_bytes == 10 * one.peak_activation_bytes

    def test_it_is_at_least_one(self):
        with pytest.raises(ModelError, match="batch_size of at least 1, got 0"):
            CostModel(conv_net(), load_target("t4"), batch_size=0)


class TestPeak:
    """A large 3x3 convolution, without `scale` and memory, by hand."""

    @pytest.mark.parametrize(
        ("name", "widths", "rate"),
        [
            ("mpic", (8, 8), 2.1),
            ("mpic", (2, 4), 3.9),
            ("bitfusion_16x32", (8, 8), 16 * 32),
            ("bitfusion_16x32", (4, 8), 16 * 32 * 2),
            ("bitfusion_16x32", (2, 2), 16 * 32 * 16),
            ("bismo_ultra96", (3, 8), 10 * 256 * 10 / (3 * 8)),
            ("ethos_u55_128", (8, 8), 2 * 1 * 8 * 8),
            # 3360 steps of 16 inputs for a tile of 3 x 3 pixels and 32 channels
            (
                "ne16_gap9",
                (8, 8),
                9 * 53760 * 9 * 32 / (3360 * (31 + 6 + 6 + 32 * 8 + 2) + 9 + 32 + 13),
            ),
            ("max78000", (8, 8), 64 * 9),
            ("fpga_lut", (2, 2), 16 * 16),
            # 36 pixels, 32 channels and 28 inputs in each step
            ("n_eureka", (8, 8), 36 * 32 * 28 * 9 / (32 * 8 + 43.5)),
            ("n_eureka", (2, 8), 36 * 32 * 28 * 9 / (32 * 2 + 43.5)),
        ],
    )
    def test_by_hand(self, name, widths, rate):
        found = peak_macs_per_cycle(load_target(name), *widths)
        assert found == pytest.approx(rate, rel=1e-9)


class TestTotals:
    @pytest.mark.parametrize("name", list_targets())
    def test_they_equal_the_estimate(self, name):
        net = NetworkBuilder((8, 8, 4))
        x = net.conv(net.input, 8, 3)
        y = net.concat(net.depthwise(x), net.add(x, x), x)
        net.softmax(net.dense(net.mean(y), 3))
        workload, target = net.build(), load_target(name)
        if not target.ops_for(OpKind.DEPTHWISE_CONV):
            with pytest.raises(TargetError, match="'depthwise_conv_1' of kind"):
                CostModel(workload, target)
            return
        model = CostModel(workload, target)
        widths = sorted(target.activation_bits)
        for weights in sorted(target.weight_bits_for(OpKind.CONV)):
            for activations in widths:
                policy = uniform_policy(workload, weights, activations)
                if check_policy(workload, policy, target):
                    continue
                for _ in range(2):  # computed, then looked up
                    totals = model.totals(policy)
                    cost = model.estimate(policy)
                    assert totals == {
                        key: pytest.approx(getattr(cost, key)) for key in totals
                    }

    def test_each_width_has_a_place_of_its_own(self):
        net = NetworkBuilder((8, 8, 4))
        x = net.conv(net.input, 8, 3, name="first")
        net.add(net.conv(x, 8, 3, name="second"), x)
        workload, target = net.build(), load_target("bismo_ultra96")
        model = CostModel(workload, target)
        base = uniform_policy(workload, 8, 8)
        for field in ("weights", "activations"):
            for name in getattr(base, field):
                changed = dataclasses.replace(
                    base, **{field: {**getattr(base, field), name: 3}}
                )
                cost = estimate(workload, changed, target)
                assert model.totals(changed)["cycles"] == pytest.approx(cost.cycles)
                peak = model.totals(changed)["peak_activation_bytes"]
                assert peak == cost.peak_activation_bytes

    def test_a_policy_of_another_network_is_refused(self):
        workload = conv_net()
        model = CostModel(workload, load_target("mpic"))
        policy = uniform_policy(workload, 8, 8)
        for field in ("weights", "activations"):
            extra = dataclasses.replace(
                policy, **{field: {**getattr(policy, field), "x": 8}}
            )
            with pytest.raises(PolicyError, match="'x', which matches nothing"):
                model.totals(extra)

    def test_too_many_inputs_are_refused(self):
        net = NetworkBuilder((8, 8, 4))
        parts = [net.conv(net.input, 4, 3) for _ in range(20)]
        net.concat(*parts)
        with pytest.raises(ModelError, match="at most 20 widths at layer 'concat_20'"):
            CostModel(net.build(), load_target("mpic"))


def catalogue_text(name: str) -> str:
    path = TARGETS / f"{name}.toml"
    return path.read_text(encoding="utf-8")


def load_text(text: str, folder: Path) -> Target:
    path = folder / "edited.toml"
    path.write_text(text, encoding="utf-8")
    return load_target(path)


class TestEveryKeyMatters:
    @pytest.mark.parametrize(
        ("name", "old", "new"),
        [
            ("ethos_u55_128", "block_height = 2", "block_height = 3"),
            ("ethos_u55_128", "block_width = 1", "block_width = 2"),
            ("ethos_u55_128", "block_channels = 8", "block_channels = 16"),
            ("ethos_u55_128", "input_channels = 8", "input_channels = 32"),
            ("ethos_u55_128", "depthwise_cycles = 4", "depthwise_cycles = 5"),
            ("ethos_u55_128", "depthwise_taps = 4", "depthwise_taps = 9"),
            (
                "ethos_u55_128",
                "output_cycles_per_elem = 0.5",
                "output_cycles_per_elem = 99",
            ),
            ("ethos_u55_128", "scale = 1.34", "scale = 1.35"),
            ("ethos_u55_128", "stored_bits = 8.17", "stored_bits = 800.0"),
            ("ethos_u55_128", "tensor_bits = 8", "tensor_bits = 4"),
            ("ne16_gap9", "scale = 0.71", "scale = 0.72"),
            ("edge_tpu_coral", "network_cycles = 1_920_000", "network_cycles = 1"),
            (
                "edge_tpu_coral",
                "weight_cache_bytes = 8_000_000",
                "weight_cache_bytes = 8_000",
            ),
            ("bitfusion_16x32", "weight_bytes = 65_536", "weight_bytes = 4_096"),
            ("bitfusion_16x32", "input_bytes = 32_768", "input_bytes = 2_048"),
            ("bitfusion_16x32", "output_bytes = 16_384", "output_bytes = 2_048"),
            ("bitfusion_16x32", "double_buffered = true", "double_buffered = false"),
            ("bitfusion_16x32", "accumulator_bits = 32\n", "accumulator_bits = 64\n"),
            (
                "bitfusion_16x32",
                "stores_accumulators = false",
                "stores_accumulators = true",
            ),
            ("bitfusion_16x32", "pads_weights = false", "pads_weights = true"),
        ],
    )
    def test_in_the_catalogue(self, name, old, new, tmp_path):
        net = NetworkBuilder((24, 24, 20), bias=True)
        x = net.depthwise(net.conv(net.input, 96, 3))
        net.dense(net.conv(x, 96, 3), 10)
        workload = net.build()
        policy = uniform_policy(workload, 8, 8)
        text = catalogue_text(name)
        assert old in text
        changed = load_text(text.replace(old, new, 1), tmp_path)
        assert estimate(workload, policy, changed) != estimate(
            workload, policy, load_target(name)
        )
