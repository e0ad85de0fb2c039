"""Cost: every expected value is worked out by hand in the test."""

from __future__ import annotations

import dataclasses
from importlib import resources
from pathlib import Path

import pytest

from matar_tf.errors import ModelError, PolicyError, TargetError
from matar_tf.policy import Policy
from matar_tf.pricing import check_policy
from matar_tf.pricing.model import CostModel, estimate
from matar_tf.targets import Target, list_targets, load_target
from matar_tf.targets.fields import MULTIPLY_KINDS
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload, Workload

FIGURES = ("latency_ms", "cycles", "energy_pj", "weight_bytes", "peak_activation_bytes",
           "bops")  # fmt: skip
WIDTHS = {"conv": 8, "dw": 8, "pw": 8, "dense": 8}


def make_workload(
    layers: list[LayerWorkload], shapes: dict[str, tuple[int, ...]]
) -> Workload:
    """Builds a chain or graph that reads "image"; every other tensor has an entry."""
    return Workload(
        layers=tuple(layers),
        tensors={
            name: TensorWorkload(
                name=name, shape=shape, activation=None if name == "image" else name
            )
            for name, shape in shapes.items()
        },
        inputs=("image",),
        outputs=(layers[-1].output,),
    )


def residual_workload() -> Workload:
    """conv -> (depthwise -> pointwise) + skip -> mean -> dense, on 8x8 images."""
    return make_workload(
        [
            LayerWorkload(
                name="conv",
                kind=OpKind.CONV,
                inputs=("image",),
                output="conv",
                weights="conv",
                macs=64 * 16 * 27,
                weight_elems=16 * 27,
                bias_elems=16,
                kernel_size=(3, 3),
            ),
            LayerWorkload(
                name="dw",
                kind=OpKind.DEPTHWISE_CONV,
                inputs=("conv",),
                output="dw",
                weights="dw",
                macs=64 * 16 * 9,
                weight_elems=16 * 9,
                bias_elems=16,
                kernel_size=(3, 3),
                groups=16,
            ),
            LayerWorkload(
                name="pw",
                kind=OpKind.CONV,
                inputs=("dw",),
                output="pw",
                weights="pw",
                macs=64 * 16 * 16,
                weight_elems=16 * 16,
                bias_elems=16,
            ),
            LayerWorkload(
                name="add", kind=OpKind.ADD, inputs=("conv", "pw"), output="add"
            ),
            LayerWorkload(
                name="mean", kind=OpKind.MEAN, inputs=("add",), output="mean"
            ),
            LayerWorkload(
                name="dense",
                kind=OpKind.DENSE,
                inputs=("mean",),
                output="dense",
                weights="dense",
                macs=160,
                weight_elems=160,
                bias_elems=10,
            ),
        ],
        {
            "image": (8, 8, 3),
            "conv": (8, 8, 16),
            "dw": (8, 8, 16),
            "pw": (8, 8, 16),
            "add": (8, 8, 16),
            "mean": (16,),
            "dense": (10,),
        },
    )


def residual_policy(
    weights: dict[str, int] | None = None, activations: dict[str, int] | None = None
) -> Policy:
    tensors = dict.fromkeys(("conv", "dw", "pw", "add", "mean", "dense"), 8)
    return Policy(
        weights=WIDTHS | (weights or {}), activations=tensors | (activations or {})
    )


def uniform_policy(bits: int) -> Policy:
    return Policy(
        weights=dict.fromkeys(WIDTHS, bits),
        activations=dict.fromkeys(residual_policy().activations, bits),
    )


def one_layer(layer: LayerWorkload, source: tuple[int, ...], made: tuple[int, ...]):
    """A layer between two copies, so that it does not read a network input."""
    return make_workload(
        [
            LayerWorkload(
                name="copy", kind=OpKind.PAD, inputs=("image",), output="source"
            ),
            dataclasses.replace(layer, inputs=("source",), output="made"),
        ],
        {"image": source, "source": source, "made": made},
    )


CONV = LayerWorkload(
    name="layer",
    kind=OpKind.CONV,
    inputs=(),
    output="",
    weights="layer",
    macs=100 * 40 * 9 * 64,
    weight_elems=40 * 9 * 64,
    bias_elems=40,
    kernel_size=(3, 3),
)
DEPTHWISE = dataclasses.replace(
    CONV,
    kind=OpKind.DEPTHWISE_CONV,
    macs=100 * 40 * 9,
    weight_elems=40 * 9,
    groups=40,
)
DENSE = dataclasses.replace(
    CONV, kind=OpKind.DENSE, macs=4000, weight_elems=4000, kernel_size=(1, 1)
)
SHAPES = {
    OpKind.CONV: ((10, 10, 64), (10, 10, 40)),
    OpKind.DEPTHWISE_CONV: ((10, 10, 40), (10, 10, 40)),
    OpKind.DENSE: ((100,), (40,)),
}


def layer_cost(layer: LayerWorkload, target: Target, weights: int, inputs: int):
    workload = one_layer(layer, *SHAPES[layer.kind])
    policy = Policy(
        weights={"layer": weights}, activations={"source": inputs, "made": 8}
    )
    return estimate(workload, policy, target).layers[1]


def edited_target(name: str, changes: dict[str, str], folder: Path) -> Target:
    file = resources.files("matar_tf.targets").joinpath("data", f"{name}.toml")
    text = file.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "edited.toml"
    path.write_text(text, encoding="utf-8")
    return load_target(path)


def unbuffered(folder: Path, changes: dict[str, str] | None = None) -> Target:
    """Bit Fusion without its buffers: each tensor crosses the port once."""
    file = resources.files("matar_tf.targets").joinpath("data", "bitfusion_16x32.toml")
    text = file.read_text(encoding="utf-8")
    section = text[text.index("[buffers]") : text.index("[overhead]")]
    return edited_target("bitfusion_16x32", {section: "", **(changes or {})}, folder)


class TestBitParallel:
    @pytest.mark.parametrize(
        ("layer", "cycles_per_mac"), [(CONV, 3.74), (DEPTHWISE, 12.2), (DENSE, 3.91)]
    )
    def test_a_microcontroller_takes_cycles_per_mac(self, layer, cycles_per_mac):
        cost = layer_cost(layer, load_target("cortex_m4_cmsis_nn"), 8, 8)
        assert cost.cycles == pytest.approx(layer.macs * cycles_per_mac)
        assert cost.bound == "compute"
        # 51.9 mW at 120 MHz is 432.5 pJ per cycle.
        assert cost.energy_pj == pytest.approx(cost.cycles * 432.5)

    @pytest.mark.parametrize(
        ("weights", "inputs", "macs_per_cycle"),
        [(8, 8, 2.1), (8, 2, 2.2), (2, 8, 2.5), (4, 2, 4.0), (2, 4, 3.9), (2, 2, 6.5)],
    )
    def test_a_table_gives_each_pair_its_rate(self, weights, inputs, macs_per_cycle):
        cost = layer_cost(CONV, load_target("mpic"), weights, inputs)
        assert cost.cycles == pytest.approx(CONV.macs / macs_per_cycle)

    def test_other_arrays_load_each_element_once(self, tmp_path):
        ports = (
            "[bandwidth]\nactivation_bits_per_cycle = {}\nweight_bits_per_cycle = {}\n"
            'source = "x"\n\n[overhead]'
        )
        for widths, bound, bits in (
            ((0.01, 1000), "activation_load", 6400 * 4),
            ((1000, 0.01), "weight_load", 40 * 9 * 64 * 2),
        ):
            changes = {"[overhead]": ports.format(*widths)}
            target = edited_target("mpic", changes, tmp_path)
            cost = layer_cost(CONV, target, 2, 4)
            assert cost.bound == bound
            assert cost.cycles == pytest.approx(bits / 0.01)


class TestFused:
    @pytest.mark.parametrize(
        ("weights", "inputs", "cycles"),
        [
            # 100 pixels * 9 * ceil(40 / 32) * ceil(64 / (16 * split))
            (8, 8, 100 * 9 * 2 * 4),
            (4, 8, 100 * 9 * 2 * 2),
            (8, 4, 100 * 9 * 2 * 2),
            (4, 4, 100 * 9 * 2 * 1),
            (2, 2, 100 * 9 * 2 * 1),
        ],
    )
    def test_narrow_operands_gain_along_the_input_channels(
        self, weights, inputs, cycles, tmp_path
    ):
        cost = layer_cost(CONV, unbuffered(tmp_path), weights, inputs)
        assert (cost.cycles, cost.bound) == (cycles, "compute")

    @pytest.mark.parametrize("bits", [2, 4, 8])
    def test_a_depthwise_layer_gains_nothing(self, bits, tmp_path):
        changes = {"dram_bits_per_cycle = 192": "dram_bits_per_cycle = 1e6"}
        target = unbuffered(tmp_path, changes)
        assert layer_cost(DEPTHWISE, target, bits, bits).cycles == 100 * 9 * 2

    def test_a_dense_layer_is_bound_by_its_weights(self, tmp_path):
        cost = layer_cost(DENSE, unbuffered(tmp_path), 8, 8)
        # 2 * ceil(100 / 16) = 14 cycles of arithmetic; 100 inputs, 40 outputs, 4000
        # weights, 40 biases and 40 scales over a port of 24 bytes.
        assert (cost.cycles, cost.bound) == ((100 + 40 + 4000 + 320) / 24, "dram")

    def test_the_scale_is_of_arithmetic_and_not_of_the_port(self, tmp_path):
        changes = {'kind = "fused"': 'kind = "fused"\nscale = 2.5'}
        slow = edited_target("bitfusion_16x32", changes, tmp_path)
        costs = [
            layer_cost(CONV, target, 8, 8)
            for target in (load_target("bitfusion_16x32"), slow)
        ]
        assert [one.bound for one in costs] == ["compute", "compute"]
        # 100 pixels * 9 * ceil(40 / 32) * ceil(64 / 16); filling takes as long.
        assert costs[1].cycles - costs[0].cycles == 1.5 * 100 * 9 * 2 * 4

    def test_grouped_convolutions_run_one_group_at_a_time(self, tmp_path):
        grouped = dataclasses.replace(
            CONV, groups=4, macs=CONV.macs // 4, weight_elems=CONV.weight_elems // 4
        )
        cost = layer_cost(grouped, unbuffered(tmp_path), 8, 8)
        assert cost.cycles == 4 * 100 * 9 * 1 * 1

    @pytest.mark.parametrize(("im2col", "cycles"), [("true", 128), ("false", 576)])
    def test_the_first_layer_is_unrolled_if_the_target_says_so(
        self, im2col, cycles, tmp_path
    ):
        changes = {
            "first_layer_im2col = true": f"first_layer_im2col = {im2col}",
            "dram_bits_per_cycle = 192": "dram_bits_per_cycle = 1e6",
        }
        target = unbuffered(tmp_path, changes)
        cost = estimate(residual_workload(), residual_policy(), target)
        # 64 pixels * ceil(27 / 16), or 64 pixels * 9 * ceil(3 / 16)
        assert cost.layers[0].cycles == cycles

    def test_energy_adds_up_cycles_and_accesses(self, tmp_path):
        cost = layer_cost(DENSE, unbuffered(tmp_path), 4, 2)
        expected = (
            2 * 1 * 235.104  # ceil(40 / 32) * ceil(100 / (16 * 2 * 4)) cycles
            + 4000 * 4 * (0.029 + 0.021)
            + 100 * 2 * 0.114
            + 4000 * 2 * 0.059
            + 40 * 32 * (0.033 + 0.073)
            + (100 * 2 + 40 * 8 + 8 * (2000 + 320)) * 15.0
        )
        assert cost.energy_pj == pytest.approx(expected)


class TestBitSerial:
    @pytest.mark.parametrize(
        ("weights", "inputs", "cycles", "bound"),
        [
            # ceil(576 / 256) = 3, ceil(40 / 10) = 4, ceil(100 / 10) = 10
            (8, 8, 8 * 8 * 3 * 4 * 10, "compute"),
            (3, 8, 3 * 8 * 3 * 4 * 10, "compute"),
            (3, 7, 3 * 7 * 3 * 4 * 10, "compute"),
            # one vector per pixel and input bit: 3 * 100 * 8
            (2, 8, 8 * 3 * 100, "activation_load"),
        ],
    )
    def test_a_convolution_is_slowed_by_both_widths(
        self, weights, inputs, cycles, bound, tmp_path
    ):
        changes = {"dram_bits_per_cycle = 64": "dram_bits_per_cycle = 1e6"}
        target = edited_target("bismo_ultra96", changes, tmp_path)
        cost = layer_cost(CONV, target, weights, inputs)
        assert (cost.cycles, cost.bound) == (cycles, bound)

    @pytest.mark.parametrize("weights", [2, 5, 8])
    def test_a_depthwise_layer_is_bound_by_its_input(self, weights, tmp_path):
        changes = {"dram_bits_per_cycle = 64": "dram_bits_per_cycle = 1e6"}
        target = edited_target("bismo_ultra96", changes, tmp_path)
        cost = layer_cost(DEPTHWISE, target, weights, 8)
        # 4 blocks of 10 channels, 90 <= 256 bits each: 4 * 8 * 100 vectors of inputs,
        # against 4 * weights * 8 * 10 cycles of arithmetic.
        assert (cost.cycles, cost.bound) == (3200, "activation_load")

    def test_a_dense_layer_is_bound_by_its_weights(self, tmp_path):
        changes = {"dram_bits_per_cycle = 64": "dram_bits_per_cycle = 1e6"}
        target = edited_target("bismo_ultra96", changes, tmp_path)
        cost = layer_cost(DENSE, target, 8, 2)
        # One vector per weight bit and channel: 8 * 40; arithmetic: 8 * 2 * 4.
        assert (cost.cycles, cost.bound) == (320, "weight_load")

    def test_off_chip_traffic_counts_each_tensor_once(self):
        cost = layer_cost(DENSE, load_target("bismo_ultra96"), 8, 2)
        assert (cost.cycles, cost.bound) == ((25 + 40 + 4000 + 320) / 8, "dram")


class TestLayersWithoutWeights:
    @pytest.mark.parametrize(
        ("kind", "made", "num_elems"),
        [
            (OpKind.ACTIVATION, (8, 8, 4), 256),
            (OpKind.MEAN, (4,), 256),
            (OpKind.RESHAPE, (256,), 256),
            (OpKind.PAD, (10, 10, 4), 400),
            (OpKind.AVERAGE_POOL, (8, 8, 4), 256 * 9),
            (OpKind.MAX_POOL, (4, 4, 4), 64 * 9),
        ],
    )
    def test_the_cost_is_by_elements(self, kind, made, num_elems, tmp_path):
        layer = LayerWorkload(
            name="layer", kind=kind, inputs=(), output="", kernel_size=(3, 3)
        )
        workload = one_layer(layer, (8, 8, 4), made)
        policy = Policy(weights={}, activations={"source": 8, "made": 8})
        cost = estimate(workload, policy, load_target("mpic")).layers[1]
        assert cost.cycles == num_elems * 4
        assert (cost.macs, cost.bops, cost.weight_bytes) == (0, 0, 0)
        assert cost.weight_bits is None

    def test_an_addition_handles_both_inputs(self):
        cost = estimate(residual_workload(), residual_policy(), load_target("mpic"))
        assert cost.layers[3].cycles == 2 * 1024 * 4

    def test_the_cpu_counts_in_cycles_of_the_target(self):
        target = load_target("bismo_ultra96")
        cost = estimate(residual_workload(), residual_policy(), target)
        add = cost.layers[3]
        # 2048 elements * 4 cycles at 1.2 GHz are 2048 cycles at 300 MHz; 8 W.
        assert (add.unit, add.cycles) == ("cpu", 2048)
        assert add.energy_pj == pytest.approx(2048 / 300e6 * 8 * 1e12)

    @pytest.mark.parametrize("name", list_targets())
    @pytest.mark.parametrize(
        "kind",
        [kind for kind in OpKind if kind not in (*MULTIPLY_KINDS, OpKind.FLOAT)],
    )
    def test_no_kind_is_free(self, name, kind):
        layer = LayerWorkload(name="layer", kind=kind, inputs=(), output="")
        workload = one_layer(layer, (8, 8, 4), (8, 8, 4))
        policy = Policy(weights={}, activations={"source": 8, "made": 8})
        assert estimate(workload, policy, load_target(name)).layers[1].cycles > 0

    def test_an_unsupported_kind_is_an_error_and_not_free(self, tmp_path):
        target = edited_target("mpic", {'"mean", ': ""}, tmp_path)
        with pytest.raises(TargetError, match="does not run layer 'mean'"):
            CostModel(residual_workload(), target)

    def test_a_layer_with_weights_may_be_handed_to_the_cpu(self, tmp_path):
        entry = (
            '[[ops]]\nunit = "cpu"\nkinds = ["depthwise_conv"]\nweight_bits = [8]\n'
            'activation_bits = [8]\ncycles_per_mac = 2\nsource = "x"\n\n'
            '[cpu]\nfrequency_hz = 500_000_000\nsource = "x"\n\n[overhead]'
        )
        block = (
            '[[ops]]\nunit = "array"\nkinds = ["depthwise_conv"]\n'
            "weight_bits = [2, 4, 8]\nactivation_bits = [2, 4, 8]\n"
            'source = "mpic_latency.py uses the same rates; no kernel was measured"\n'
            'assumed = ["kinds"]\n'
        )
        target = edited_target("mpic", {block: "", "[overhead]": entry}, tmp_path)
        cost = layer_cost(DEPTHWISE, target, 8, 8)
        # At half the processor's clock, two cycles per MAC are one.
        assert (cost.unit, cost.cycles) == ("cpu", DEPTHWISE.macs)
        assert cost.energy_pj is None


class TestEstimate:
    @pytest.mark.parametrize("name", list_targets())
    def test_every_target_prices_every_layer(self, name):
        target = load_target(name)
        broken = check_policy(residual_workload(), residual_policy(), target)
        if not target.ops_for(OpKind.DEPTHWISE_CONV):
            assert broken[0].constraint == "constraint_supported_ops"
            return
        # It has three channels of input, where one target takes one.
        assert len(broken) == (name == "ti_npu")
        cost = estimate(residual_workload(), residual_policy(), target)
        assert all(layer.cycles > 0 for layer in cost.layers)
        if target.energy is None:
            assert all(layer.energy_pj is None for layer in cost.layers)
        else:
            assert all(layer.energy_pj and layer.energy_pj > 0 for layer in cost.layers)
        assert [layer.name for layer in cost.layers] == [
            layer.name for layer in residual_workload().layers
        ]

    @pytest.mark.parametrize("name", ["bitfusion_16x32", "bismo_ultra96", "mpic"])
    def test_fewer_bits_are_never_slower_nor_larger(self, name):
        target = load_target(name)
        wide, narrow = (
            estimate(residual_workload(), uniform_policy(bits), target)
            for bits in (8, 4)
        )
        for figure in FIGURES:
            assert getattr(narrow, figure) < getattr(wide, figure)

    def test_totals_are_sums_over_the_layers(self):
        target = load_target("bitfusion_16x32")
        cost = estimate(residual_workload(), residual_policy({"pw": 4}), target)
        for field in ("macs", "bops", "cycles", "energy_pj", "weight_bytes"):
            total = sum(getattr(layer, field) for layer in cost.layers)
            assert getattr(cost, field) == pytest.approx(total)
        assert cost.latency_ms == pytest.approx(cost.cycles / 500e3)

    def test_bops_multiply_weights_and_input(self):
        policy = residual_policy({"pw": 3}, {"dw": 5})
        cost = estimate(residual_workload(), policy, load_target("bismo_ultra96"))
        assert cost.layers[2].bops == 64 * 16 * 16 * 3 * 5
        assert (cost.layers[2].weight_bits, cost.layers[2].activation_bits) == (3, 5)
        assert cost.layers[0].bops == 64 * 16 * 27 * 8 * 8

    def test_weight_bytes_are_packed_kernels_biases_and_scales(self):
        policy = residual_policy({"dw": 3, "dense": 2})
        cost = estimate(residual_workload(), policy, load_target("bismo_ultra96"))
        assert [layer.weight_bytes for layer in cost.layers] == [
            432 + 128,
            54 + 128,
            256 + 128,
            0,
            0,
            40 + 80,
        ]

    def test_the_skip_connection_is_alive_until_the_addition(self):
        target = load_target("bismo_ultra96")
        # Alive at conv: image 192 + conv; at dw: conv + dw; at pw: conv + dw + pw;
        # at add: conv + pw + add.
        for activations, peak in (
            ({}, 3 * 1024),
            ({"dw": 4}, 3 * 1024),
            ({"add": 4}, 3 * 1024),
            ({"dw": 4, "add": 2}, 1024 + 512 + 1024),
            ({"conv": 2, "dw": 4, "add": 2}, 256 + 512 + 1024),
            ({"conv": 8, "dw": 2, "pw": 2, "add": 2}, 1024 + 256 + 256),
        ):
            policy = residual_policy(activations=activations)
            cost = estimate(residual_workload(), policy, target)
            assert cost.peak_activation_bytes == peak

    def test_mean_bits_are_weighted_by_elements(self):
        policy = residual_policy({"pw": 2}, {"conv": 4})
        cost = estimate(residual_workload(), policy, load_target("bismo_ultra96"))
        num_weights, num_elems = 432 + 144 + 256 + 160, 192 + 4 * 1024 + 16 + 10
        assert cost.mean_weight_bits == pytest.approx(8 - 6 * 256 / num_weights)
        assert cost.mean_activation_bits == pytest.approx(8 - 4 * 1024 / num_elems)

    def test_a_network_without_weights_has_no_mean_weight_bits(self):
        layer = LayerWorkload(name="layer", kind=OpKind.MEAN, inputs=(), output="")
        workload = one_layer(layer, (8, 8, 4), (4,))
        policy = Policy(weights={}, activations={"source": 8, "made": 8})
        cost = estimate(workload, policy, load_target("mpic"))
        assert cost.mean_weight_bits is None

    def test_overhead_is_added_to_every_layer(self, tmp_path):
        plain = load_target("mpic")
        slow = edited_target("mpic", {"layer_cycles = 0": "layer_cycles = 7"}, tmp_path)
        costs = [
            estimate(residual_workload(), residual_policy(), target)
            for target in (plain, slow)
        ]
        assert costs[1].cycles == pytest.approx(costs[0].cycles + 6 * 7)

    def test_missing_energy_is_none_and_not_zero(self, tmp_path):
        section = '[energy]\nkind = "active_power"\nactive_power_mw = 5.3825\n'
        source = 'source = "mpic_energy.py: mean of 5.30, 5.39, 5.46 and 5.38 mW"\n'
        target = edited_target("mpic", {section + source: ""}, tmp_path)
        cost = estimate(residual_workload(), residual_policy(), target)
        assert cost.energy_pj is None

    def test_energy_missing_for_one_layer_is_missing_in_total(self, tmp_path):
        old = "active_power_mw = 8_000   # an upper bound: the whole board\nsource = "
        changes = {old + '"Cortex': 'source = "Cortex'}
        target = edited_target("bismo_ultra96", changes, tmp_path)
        cost = estimate(residual_workload(), residual_policy(), target)
        assert cost.layers[0].energy_pj is not None
        assert cost.layers[3].energy_pj is None
        assert cost.energy_pj is None

    def test_a_width_that_the_target_does_not_take_is_an_error(self):
        target = load_target("bitfusion_16x32")
        with pytest.raises(TargetError, match=r"'pw'.*weights of 3 and inputs of 8"):
            estimate(residual_workload(), residual_policy({"pw": 3}), target)
        policy = residual_policy(activations={"pw": 5})
        with pytest.raises(TargetError, match=r"'add'.*inputs of 5 bits"):
            estimate(residual_workload(), policy, target)

    def test_a_policy_of_another_network_is_an_error(self):
        model = CostModel(residual_workload(), load_target("mpic"))
        with pytest.raises(PolicyError, match="no weights entry for 'conv'"):
            model.estimate(Policy(weights={}, activations={}))

    def test_one_model_prices_many_policies_like_one_shot_estimates(self):
        workload, target = residual_workload(), load_target("bismo_ultra96")
        model = CostModel(workload, target)
        for bits in (8, 5, 2, 8):
            policy = uniform_policy(bits)
            assert model.estimate(policy) == estimate(workload, policy, target)

    @pytest.mark.parametrize(
        "changes",
        [
            {"weights": None},
            {"macs": 0},
            {"weight_elems": 0},
            {"weight_elems": 7},
            {"groups": 3},
            {"kernel_size": (50, 50)},
        ],
    )
    def test_a_layer_that_would_be_free_by_mistake_is_refused(self, changes):
        workload = one_layer(dataclasses.replace(CONV, **changes), *SHAPES[CONV.kind])
        with pytest.raises(ModelError, match="'layer'"):
            CostModel(workload, load_target("mpic"))

    def test_weights_of_a_layer_that_does_not_multiply_are_refused(self):
        layer = dataclasses.replace(CONV, kind=OpKind.ADD)
        workload = one_layer(layer, *SHAPES[CONV.kind])
        with pytest.raises(ModelError, match="Expected no weights for layer 'layer'"):
            CostModel(workload, load_target("mpic"))
