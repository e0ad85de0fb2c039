"""What devices take of shapes, and what they cost: values by hand, both sides."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from fixtures.paths import GOLDEN, TARGETS

from matar_tf.errors import TargetError
from matar_tf.pricing import check_policy, legal_space
from matar_tf.pricing.demand import demand_of
from matar_tf.pricing.folded import folded_cycles, folded_luts, folding
from matar_tf.pricing.model import CostModel, estimate
from matar_tf.reporting.target_page import describe_catalogue, describe_target
from matar_tf.space import PolicySpace
from matar_tf.targets import Target, load_target
from matar_tf.targets.compute import FoldedCompute
from matar_tf.targets.digests import target_digest
from matar_tf.targets.storage import Decoding
from matar_tf.workload import OpKind, Workload
from tools.benchmarks.reference_networks import NetworkBuilder, uniform_policy

WIDTHS = (2, 4, 8)


def conv_net(
    kernel: int | tuple[int, int] = 3,
    size: int = 9,
    inputs: int = 20,
    outputs: int = 40,
    *,
    strides: int = 1,
) -> Workload:
    net = NetworkBuilder((size, size, inputs))
    net.conv(net.input, outputs, kernel, strides=strides, name="conv")
    return net.build()


def depthwise_net(channels: int = 20) -> Workload:
    net = NetworkBuilder((9, 9, channels))
    net.depthwise(net.input)
    return net.build()


def dense_net(inputs: int, outputs: int = 10) -> Workload:
    net = NetworkBuilder((inputs,))
    net.dense(net.input, outputs, name="logits")
    return net.build()


def cycles(net: Workload, target: Target, weights: int = 8, inputs: int = 8) -> float:
    return estimate(net, uniform_policy(net, weights, inputs), target).cycles


def space_of(net: Workload, widths: tuple[int, ...] = WIDTHS) -> PolicySpace:
    weights = {one.weights: widths for one in net.layers if one.weights}
    return PolicySpace(weights=weights, activations=dict.fromkeys(net.tensors, (8,)))


def breaches(net: Workload, name: str, weights: int = 8) -> dict[str, str]:
    policy = uniform_policy(net, weights, 8)
    found = check_policy(net, policy, load_target(name))
    return {one.constraint: one.message for one in found}


class TestNEureka:
    """9 x 9 pixels are 2 * 2 tiles of 6 x 6; 40 channels are two tiles of 32."""

    @pytest.mark.parametrize("bits", [2, 5, 8])
    def test_a_3x3_kernel_takes_time_by_weight_bits(self, bits: int) -> None:
        found = cycles(conv_net(), load_target("n_eureka"), bits)
        assert found == 4 * (40 * bits + 2 * 43.5)

    def test_inputs_come_in_steps_of_28(self) -> None:
        target = load_target("n_eureka")
        one = 4 * (40 * 8 + 2 * 43.5)
        assert cycles(conv_net(inputs=28), target) == one
        assert cycles(conv_net(inputs=29), target) == 2 * one

    def test_a_1x1_kernel_takes_the_same_at_all_widths(self) -> None:
        net, target = conv_net(1), load_target("n_eureka")
        assert {cycles(net, target, bits) for bits in WIDTHS} == {4 * (40 + 2 * 43.5)}

    def test_a_depthwise_layer_takes_one_step(self) -> None:
        target = load_target("n_eureka")
        assert cycles(depthwise_net(28), target, 4) == 4 * (28 * 4 + 43.5)
        assert cycles(depthwise_net(29), target, 4) == 4 * (29 * 4 + 2 * 43.5)

    def test_strides_leave_out_what_is_computed(self) -> None:
        # 5 x 5 of 10 x 10 pixels
        target = load_target("n_eureka")
        assert cycles(conv_net(strides=2), target) == 4 * (40 * 8 + 2 * 43.5)

    def test_kernels_are_1x1_and_3x3(self) -> None:
        (message,) = breaches(conv_net(5), "n_eureka").values()
        assert "Layer 'conv' of kind 'conv': expected 1x1 or 3x3, got 5x5." in message
        assert not breaches(conv_net(3), "n_eureka")


class TestMax78000:
    def test_64_inputs_are_added_up_in_a_cycle(self) -> None:
        target = load_target("max78000")
        for kernel in (1, 3):
            assert cycles(conv_net(kernel, inputs=64), target) == 81 * 40
            assert cycles(conv_net(kernel, inputs=65), target, 2) == 2 * 81 * 40

    def test_strides_are_one(self) -> None:
        found = breaches(conv_net(strides=2), "max78000")
        assert list(found) == ["constraint_strides"]
        assert "'conv': expected strides 1x1, got 2x2" in found["constraint_strides"]

    def test_depthwise_layers_are_refused_by_name(self) -> None:
        net = depthwise_net()
        found = breaches(net, "max78000")["constraint_supported_ops"]
        assert "Layer 'depthwise_conv_0' of kind 'depthwise_conv'" in found
        with pytest.raises(TargetError, match=r"'max78000'.*'depthwise_conv_0'"):
            legal_space(space_of(net), net, load_target("max78000"))

    @pytest.mark.parametrize(("number", "fits"), [(32, True), (33, False)])
    def test_there_are_32_layers(self, number: int, fits: bool) -> None:
        net = NetworkBuilder((8, 8, 4))
        x = net.input
        for _ in range(number):
            x = net.conv(x, 4, 3)
        workload = net.build(net.pool(x, 2))
        assert bool(breaches(workload, "max78000")) is not fits
        if fits:
            legal_space(space_of(workload), workload, load_target("max78000"))
            return
        with pytest.raises(TargetError, match=r"'conv_32'.*at most 32 layers"):
            legal_space(space_of(workload), workload, load_target("max78000"))

    @pytest.mark.parametrize(("bits", "times"), [(8, 1), (4, 2), (2, 4)])
    def test_weights_fill_432_kib(self, bits: int, times: int) -> None:
        # 3 * 3 * 64 * 768 bytes, or two and four times as many of fewer bits.
        fits = conv_net(3, 9, 64 * times, 768)
        assert not breaches(fits, "max78000", bits)
        found = breaches(conv_net(3, 9, 64 * times, 769), "max78000", bits)
        assert list(found) == ["constraint_kernel_memory"]
        assert "at most 442368 bytes, got 442944" in found["constraint_kernel_memory"]

    def test_it_says_that_scales_are_rounded(self) -> None:
        network = load_target("max78000").network
        assert network is not None
        assert network.scales == "power_of_two"


class TestTiNpu:
    def test_narrow_weights_are_twice_as_fast(self) -> None:
        net, target = conv_net(inputs=1), load_target("ti_npu")
        macs = 81 * 9 * 40
        found = [cycles(net, target, bits) for bits in WIDTHS]
        assert found == [macs / 8, macs / 8, macs / 4]

    def test_the_network_reads_one_channel(self) -> None:
        assert not breaches(conv_net(inputs=1), "ti_npu")
        found = breaches(conv_net(inputs=3), "ti_npu")
        assert (
            "'conv': expected 1 in the input, got 3"
            in (found["constraint_input_channels"])
        )

    @pytest.mark.parametrize(("channels", "fits"), [(8, True), (10, False)])
    def test_channels_come_in_fours(self, channels: int, fits: bool) -> None:
        net = NetworkBuilder((8, 8, 1))
        net.conv(net.conv(net.input, channels), 8)
        found = breaches(net.build(), "ti_npu")
        assert (not found) is fits
        if not fits:
            assert "a multiple of 4, got 10" in found["constraint_channels"]

    @pytest.mark.parametrize(
        ("inputs", "widths"), [(16, WIDTHS), (15, (2, 4)), (8, (2, 4))]
    )
    def test_dense_layers_have_inputs_enough(
        self, inputs: int, widths: tuple[int, ...]
    ) -> None:
        net = dense_net(inputs)
        left = legal_space(space_of(net), net, load_target("ti_npu"))
        assert left.weights == {"logits": widths}
        for bits in WIDTHS:
            assert bool(breaches(net, "ti_npu", bits)) is (bits not in widths)

    def test_too_few_at_every_width_are_refused(self) -> None:
        net = dense_net(7)
        with pytest.raises(TargetError, match=r"'logits'.*at least 8 inputs.*got 7"):
            legal_space(space_of(net), net, load_target("ti_npu"))
        net = dense_net(15)
        with pytest.raises(TargetError, match=r"'logits'.*at least 16 inputs.*got 15"):
            legal_space(space_of(net, (8,)), net, load_target("ti_npu"))

    @pytest.mark.parametrize(("window", "fits"), [(4, True), (5, False)])
    def test_pools_have_four_by_four(self, window: int, fits: bool) -> None:
        net = NetworkBuilder((20, 20, 1))
        net.pool(net.conv(net.input, 8), window)
        found = breaches(net.build(), "ti_npu")
        assert (not found) is fits
        if not fits:
            assert "at most 4x4, got 5x5" in found["constraint_kernel_size"]


class TestFpga:
    """180 inputs and 40 channels: 15 and 10 are the largest divisors up to 16."""

    def test_a_layer_is_folded(self) -> None:
        net, target = conv_net(), load_target("fpga_lut")
        compute = target.compute
        assert isinstance(compute, FoldedCompute)
        demand = demand_of(net.layers[0], net, (4, (4,), 4))
        assert folding(demand, compute) == (10, 15)
        assert folded_cycles(demand, compute) == 81 * (40 // 10) * (180 // 15)
        # 8 bits: 15 * (2 * 2 - 1) * 8 + 8 * 29 + 8 + 8, for each of ten
        assert folded_luts(demand, compute) == pytest.approx(300 + 1.1 * 10 * 608)

    def test_depthwise_layers_fold_channels_and_taps(self) -> None:
        net, target = depthwise_net(20), load_target("fpga_lut")
        demand = demand_of(net.layers[0], net, (8, (8,), 8))
        compute: Any = target.compute
        assert folding(demand, compute) == (10, 9)
        assert folded_cycles(demand, compute) == 81 * 2

    def test_luts_are_a_cost_where_logic_is_a_layers_own(self) -> None:
        net = conv_net()
        model = CostModel(net, load_target("fpga_lut"))
        luts = []
        for bits in (8, 4, 2):
            policy = uniform_policy(net, bits, bits)
            total = model.totals(policy)["luts"]
            assert total == model.estimate(policy).luts
            luts.append(total)
        assert luts == sorted(luts, reverse=True)
        assert len(set(luts)) == 3
        other = CostModel(net, load_target("mpic"))
        policy = uniform_policy(net, 8, 8)
        assert "luts" not in other.totals(policy)
        assert other.estimate(policy).luts is None

    def test_layers_without_weights_have_none(self) -> None:
        net = NetworkBuilder((8, 8, 4))
        net.pool(net.conv(net.input, 4), 2)
        workload = net.build()
        policy = uniform_policy(workload, 4, 4)
        conv, pool = estimate(workload, policy, load_target("fpga_lut")).layers
        assert conv.luts
        assert pool.luts == 0


class TestTables:
    """7,200 weights; a table is 16 bytes and a value for each code but the lowest."""

    def test_a_kernel_is_decoded_where_that_is_smaller(self) -> None:
        storage: Any = load_target("tflm_cortex_m").storage
        decoding: Decoding = storage.decoding
        assert decoding.stored_bytes(7200, 2) == 1800 + 16 + 3
        assert decoding.stored_bytes(7200, 7) == 6300 + 16 + 127
        assert decoding.stored_bytes(7200, 8) is None
        # 4 bits: n / 2 + 31 + 208 < n from 479 on
        assert decoding.stored_bytes(480, 4) == 240 + 16 + 15
        assert decoding.stored_bytes(478, 4) is None

    def test_a_decoded_kernel_stands_among_the_tensors(self) -> None:
        net, target = conv_net(), load_target("tflm_cortex_m")
        tensors = 81 * 20 + 81 * 40
        model = CostModel(net, target)
        for bits, kernel in ((8, 0), (2, 7200)):
            policy = uniform_policy(net, bits, 8)
            cost = model.estimate(policy)
            assert cost.peak_activation_bytes == tensors + kernel
            totals = model.totals(policy)
            assert totals["peak_activation_bytes"] == tensors + kernel
            stored = 7200 if bits == 8 else 1819
            assert cost.weight_bytes == totals["weight_bytes"] == stored + 4 * 40

    def test_decoding_takes_time(self) -> None:
        net, target = conv_net(), load_target("tflm_cortex_m")
        plain, narrow = (cycles(net, target, bits) for bits in (8, 2))
        assert plain == pytest.approx(3.74 * net.macs)
        assert narrow - plain == pytest.approx(10 * 7200)

    def test_it_counts_for_a_bound_of_memory(self) -> None:
        net = conv_net()
        base = load_target("mpic")
        target = load_target("tflm_cortex_m").model_copy(
            update={"memory": _memory(81 * 60 + 7199)}
        )
        assert base.memory is None
        (found,) = check_policy(net, uniform_policy(net, 2, 8), target)
        assert found.constraint == "constraint_activation_memory"
        assert not check_policy(net, uniform_policy(net, 8, 8), target)

    def test_bytes_are_whole(self) -> None:
        decoding = Decoding(
            header_bytes=1, operator_bytes=1, cycles_per_weight=0.0, source="x"
        )
        for number, bits in ((101, 3), (333, 5)):
            expected = math.ceil(number * bits / 8) + 1 + 2**bits - 1
            assert decoding.stored_bytes(number, bits) == expected


def _memory(capacity: int) -> Any:
    memory: Any = load_target("cortex_m7").memory
    return memory.model_copy(update={"activation_capacity_bytes": capacity})


def test_limits_of_one_width_say_so() -> None:
    """What holds at some widths alone names the entry, which another width mends."""
    net = dense_net(15)
    (found,) = check_policy(net, uniform_policy(net, 8, 8), load_target("ti_npu"))
    assert (found.layer, found.weights) == ("logits", "logits")
    net = conv_net(5)
    (found,) = check_policy(net, uniform_policy(net, 8, 8), load_target("n_eureka"))
    assert (found.layer, found.weights) == ("conv", None)
    assert dataclasses.asdict(found)["excess"] == 1.0


def test_a_kind_without_weights_has_no_width(tmp_path: Any) -> None:
    text = (TARGETS / "ti_npu.toml").read_text("utf-8")
    old = 'kinds = ["average_pool", "max_pool"]\nmax_kernel'
    assert old in text
    path = tmp_path / "mine.toml"
    new = old.replace("max_kernel", "weight_bits = [8]\nmax_kernel")
    path.write_text(text.replace(old, new))
    with pytest.raises(
        TargetError, match=r"limits\[3\].*'average_pool' has no weights"
    ):
        load_target(path)
    assert OpKind.MAX_POOL in load_target("ti_npu").limits[3].kinds


def test_the_page_of_a_target_shows_its_limits() -> None:
    page = describe_target(load_target("max78000"))
    assert "  not validated: No published latency" in page
    assert "  network.scales = power_of_two" in page
    assert "  limits[0]: conv\n  limits[0].kernel_sizes = 1x1 or 3x3\n" in page
    assert "  limits[0].strides = 1x1\n" in page
    assert "  limits[2].max_kernel_size = 16x16 (assumed)" in page
    page = describe_target(load_target("ti_npu"))
    assert "  limits[1]: dense at weights of 8 bits\n" in page
    page = describe_target(load_target("tflm_cortex_m"))
    assert "  storage.decoding.cycles_per_weight = 10.0 (assumed)" in page
    for name in ("constraint_kernel_size", "constraint_kernel_memory"):
        assert f"  {name}: " in page
    (line,) = (one for one in describe_catalogue().split("\n") if "ti_npu" in one)
    assert line.endswith("not validated")


def test_keys_that_say_nothing_leave_records_of_runs_as_they_were() -> None:
    """The digest of ``mpic`` in the record of a run of version 0.1.0."""
    record = json.loads((GOLDEN / "run/run.json").read_text())
    target = load_target(GOLDEN / "targets/mpic.toml")
    assert target_digest(target) == record["targets"]["mpic"]
    network = load_target("ti_npu").network
    limited = target.model_copy(update={"network": network})
    assert target_digest(limited) != target_digest(target)
