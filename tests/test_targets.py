"""Targets: the strict loader, the constraints, the legal space."""

from __future__ import annotations

import math
import pickle
import re
from importlib import resources
from pathlib import Path

import pytest
from fixtures.paths import TARGETS

from matar_tf.errors import PolicyError, TargetError
from matar_tf.policy import ALL_BITS, WIDE_BITS, Policy
from matar_tf.pricing import CONSTRAINTS, check_policy, legal_space
from matar_tf.pricing.memory import (
    Liveness,
    layer_weight_bytes,
    packed_bytes,
    tensor_bits,
)
from matar_tf.pricing.model import estimate
from matar_tf.space import PolicySpace
from matar_tf.targets import Target, latency_table, list_targets, load_target
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload, Workload

CATALOGUE = (
    "bismo_haq",
    "bismo_ultra96",
    "bitfusion_16x32",
    "cortex_m4_cmsis_nn",
    "cortex_m7",
    "edge_tpu_coral",
    "ethos_u55_128",
    "ethos_u55_256",
    "ethos_u65_256",
    "ethos_u85_256",
    "fpga_lut",
    "host_litert",
    "max78000",
    "mpic",
    "n_eureka",
    "ne16_gap9",
    "t4",
    "tflm_cortex_m",
    "ti_npu",
)
# What some devices have no unit for, and no processor of theirs does as well.
MISSING = {
    "max78000": {OpKind.DEPTHWISE_CONV, OpKind.TRANSPOSED_CONV},
    "n_eureka": {OpKind.TRANSPOSED_CONV},
    "ti_npu": {OpKind.TRANSPOSED_CONV},
}


def conv_tail_workload() -> Workload:
    """conv 3x3, 4 to 8 channels -> softmax; its input is fixed at 8 bits."""
    return Workload(
        layers=(
            LayerWorkload(
                name="conv",
                kind=OpKind.CONV,
                inputs=("image",),
                output="features",
                weights="conv",
                macs=8 * 8 * 8 * 36,
                weight_elems=288,
                bias_elems=8,
                kernel_size=(3, 3),
            ),
            LayerWorkload(
                name="softmax",
                kind=OpKind.SOFTMAX,
                inputs=("features",),
                output="scores",
            ),
        ),
        tensors={
            "image": TensorWorkload(name="image", shape=(8, 8, 4), activation=None),
            "features": TensorWorkload(
                name="features", shape=(8, 8, 8), activation="conv"
            ),
            "scores": TensorWorkload(
                name="scores", shape=(8, 8, 8), activation="softmax"
            ),
        },
        inputs=("image",),
        outputs=("scores",),
    )


def conv_tail_policy(weights: int = 8, features: int = 8, scores: int = 8) -> Policy:
    return Policy(
        weights={"conv": weights}, activations={"conv": features, "softmax": scores}
    )


def conv_tail_space() -> PolicySpace:
    return PolicySpace(
        weights={"conv": ALL_BITS},
        activations={"conv": ALL_BITS, "softmax": ALL_BITS},
    )


TOY = """
schema_version = 1
name = "toy"
class = "mixed"
description = "a toy"

[[validation]]
kind = "unchecked"
against = "none"

[clock]
frequency_hz = 1_000_000
source = "made up"

[compute]
kind = "bit_parallel"
source = "made up"

[[compute.rates]]
kinds = ["conv"]
weight_bits = [4, 8]
activation_bits = [8]
macs_per_cycle = 2

[[compute.rates]]
weight_bits = [4]
activation_bits = [4]
cycles_per_mac = 0.25

[[ops]]
unit = "array"
kinds = ["conv"]
weight_bits = [4, 8]
activation_bits = [8]
source = "made up"

[[ops]]
unit = "array"
kinds = ["conv"]
weight_bits = [4]
activation_bits = [4]
source = "made up"

[[ops]]
unit = "vector"
kinds = ["add"]
activation_bits = [4, 8]
elems_per_cycle = 4
source = "made up"

[[ops]]
unit = "cpu"
kinds = ["softmax"]
activation_bits = [4, 8]
cycles_per_elem = 1
source = "made up"
assumed = ["cycles_per_elem"]

[[ops]]
unit = "cpu"
kinds = ["dense"]
weight_bits = [8]
activation_bits = [8]
cycles_per_mac = 2
source = "made up"

[cpu]
frequency_hz = 2_000_000
active_power_mw = 3
source = "made up"

[memory]
weight_capacity_bytes = 352
activation_capacity_bytes = 1024
source = "made up"

[bandwidth]
activation_bits_per_cycle = 64
weight_bits_per_cycle = 64
dram_bits_per_cycle = 32
source = "made up"

[overhead]
layer_cycles = 10
source = "made up"

[energy]
kind = "active_power"
active_power_mw = 5
source = "made up"
"""


def catalogue_text(name: str) -> str:
    file = resources.files("matar_tf.targets").joinpath("data", f"{name}.toml")
    return file.read_text(encoding="utf-8")


def load_text(text: str, folder: Path) -> Target:
    path = folder / "edited.toml"
    path.write_text(text, encoding="utf-8")
    return load_target(path)


def edited(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.fixture
def toy(tmp_path: Path) -> Target:
    return load_text(TOY, tmp_path)


class TestCatalogue:
    def test_the_catalogue_holds_all_three_classes(self):
        assert list_targets() == CATALOGUE
        classes = {load_target(name).target_class for name in CATALOGUE}
        assert classes == {"int8", "mixed", "flexible"}

    @pytest.mark.parametrize("name", CATALOGUE)
    def test_each_target_bears_the_name_of_its_file(self, name):
        assert load_target(name).name == name

    @pytest.mark.parametrize("name", CATALOGUE)
    def test_each_target_runs_every_kind_of_layer_of_integers(self, name):
        target = load_target(name)
        missing = {kind for kind in OpKind if not target.ops_for(kind)}
        assert missing - {OpKind.FLOAT} == MISSING.get(name, set())

    def test_targets_with_a_processor_run_what_stays_in_float(self):
        found = [name for name in CATALOGUE if load_target(name).ops_for(OpKind.FLOAT)]
        assert found == [
            *("bismo_ultra96", "cortex_m4_cmsis_nn", "cortex_m7", "edge_tpu_coral"),
            *("ethos_u55_128", "ethos_u55_256", "ethos_u65_256", "ethos_u85_256"),
            "host_litert",
        ]

    def test_cortex_m4_takes_8_bit_weights_only(self):
        target = load_target("cortex_m4_cmsis_nn")
        assert target.weight_bits_for(OpKind.CONV) == {8}
        assert target.activation_bits == {8, WIDE_BITS}
        assert target.activation_bits_for(OpKind.TRANSPOSED_CONV) == {8}

    @pytest.mark.parametrize("bits", ALL_BITS)
    def test_bit_fusion_takes_powers_of_two_only(self, bits):
        target = load_target("bitfusion_16x32")
        assert target.takes(OpKind.CONV, bits, 8) == (bits in {2, 4, 8})
        assert target.takes(OpKind.CONV, 8, bits) == (bits in {2, 4, 8})

    def test_bismo_takes_every_pair(self):
        target = load_target("bismo_ultra96")
        assert all(
            target.takes(OpKind.DEPTHWISE_CONV, weights, inputs)
            for weights in ALL_BITS
            for inputs in ALL_BITS
        )

    @pytest.mark.parametrize("name", CATALOGUE)
    def test_a_target_survives_pickling_and_hashing(self, name):
        target = load_target(name)
        assert pickle.loads(pickle.dumps(target)) == target
        assert hash(target) == hash(pickle.loads(pickle.dumps(target)))


MISTAKES = [
    ("frequency_hz = 1_000_000", "frequenzy_hz = 1", "clock.frequenzy_hz", "mean 'fr"),
    ('class = "mixed"', 'klass = "mixed"', "Unknown key klass", "mean 'class'"),
    ("[overhead]", "[overheat]", "Unknown key overheat", "Did you mean 'overhead'?"),
    ("cycles_per_elem = 1", "cycle_per_elem = 1", "ops[3].cycle_per_elem", "cycles_p"),
    ("macs_per_cycle = 2", "macs_cycle = 2", "compute.rates[0].macs_cycle", "macs_per"),
    ("active_power_mw = 5", "active_power = 5", "energy.active_power.", "active_power"),
    ('name = "toy"', "", "Expected the key name, got nothing", "name"),
    ('name = "toy"', 'name = "../toy"', "name: string should match pattern", "../toy"),
    ('description = "a toy"', 'description = ""', "description", "at least 1"),
    ("frequency_hz = 1_000_000", "frequency_hz = '1'", "clock.frequency_hz", "integer"),
    ("frequency_hz = 1_000_000", "frequency_hz = true", "clock.frequency_hz", "True"),
    ("frequency_hz = 1_000_000", "frequency_hz = 0", "clock.frequency_hz", "than 0"),
    (
        "layer_cycles = 10",
        "layer_cycles = -1",
        "overhead.layer_cycles",
        "or equal to 0",
    ),
    ("layer_cycles = 10", "layer_cycles = nan", "overhead.layer_cycles", "finite"),
    ("layer_cycles = 10", "layer_cycles = inf", "overhead.layer_cycles", "finite"),
    ("layer_cycles = 10", "layer_cycles = 2020-01-01", "no dates", "edited.toml"),
    (
        "weight_bits = [4, 8]",
        "weight_bits = [1, 8]",
        "weight_bits[0]",
        "bits in 2..8, got 1",
    ),
    (
        "weight_bits = [4, 8]",
        "weight_bits = [4, 9]",
        "weight_bits[1]",
        "bits in 2..8, got 9",
    ),
    ("weight_bits = [4, 8]", "weight_bits = []", "weight_bits", "at least 1"),
    ("weight_bits = [4, 8]", "weight_bits = [4, 4]", "rates[0].weight", "distinct"),
    ("schema_version = 1", "schema_version = 2", "schema_version", "expected 1, got 2"),
    ("schema_version = 1", "schema_version = [", "in TOML", "edited.toml"),
    ('"conv"', '"conf"', "compute.rates[0].kinds[0]: unknown value 'conf'", "'conv'?"),
    ('kinds = ["add"]', 'kinds = ["conv"]', "has weights", "use unit 'array'"),
    ('kinds = ["add"]', 'kinds = ["add", "add"]', "ops[2]", "distinct kinds"),
    ('kinds = ["add"]', 'kinds = ["softmax"]', "one entry of ops", "'softmax'"),
    ('kinds = ["dense"]', 'kinds = ["pad"]', "ops[4]", "cycles_per_elem for kinds"),
    ('kinds = ["dense"]', 'kinds = ["dense", "pad"]', "ops[4]", "not both"),
    ('unit = "vector"', 'unit = "vektor"', "unknown value 'vektor'", "mean 'vector'?"),
    ('unit = "vector"\n', "", "Expected the key ops[2].unit", "nothing"),
    ('kind = "bit_parallel"', 'kind = "serial"', "compute.kind", "'bit_serial'?"),
    ('kind = "bit_parallel"\n', "", "Expected the key compute.kind", "nothing"),
    ('kind = "active_power"', "kind = 3", "energy.kind", "3"),
    ('"mixed"', '"mixd"', "class: unknown value 'mixd'", "Did you mean 'mixed'?"),
    ('"mixed"', '"int8"', "expected class 'mixed'", "got 'int8'"),
    ("macs_per_cycle = 2", "", "compute.rates[0]", "either macs_per_cycle or cycles"),
    ("macs_per_cycle = 2", "macs_per_cycle = 2\ncycles_per_mac = 1", "rates[0]", "or"),
    (
        "weight_bits = [4, 8]",
        "weight_bits = [4]",
        "one entry of compute.rates",
        "got 0",
    ),
    ("activation_bits = [8]", "activation_bits = [4, 8]", "'conv' with", "got 2"),
    ('kinds = ["conv"]', 'kinds = ["depthwise_conv"]', "compute.rates", "got 0"),
    ("cycles_per_mac = 0.25", "cycles_per_mac = 0.0", "rates[1]", "greater than 0"),
    ('["cycles_per_elem"]', '["elems"]', "ops[3]", "assumed names 'elems'"),
    ("[cpu]\nfrequency_hz = 2_000_000\nactive_power_mw = 3", "[ram]", "ram", "Unknown"),
]


class TestLoadTarget:
    @pytest.mark.parametrize(("old", "new", "key", "remedy"), MISTAKES)
    def test_a_mistake_is_named_with_its_key_and_its_remedy(
        self, old, new, key, remedy, tmp_path
    ):
        with pytest.raises(TargetError) as caught:
            load_text(edited(TOY, old, new), tmp_path)
        message = str(caught.value)
        assert "edited.toml" in message
        assert key in message
        assert remedy in message

    def test_the_unedited_file_has_no_mistake(self, toy):
        assert toy.name == "toy"

    def test_all_mistakes_are_listed_at_once(self, tmp_path):
        text = edited(TOY, 'name = "toy"', "nom = 1")
        with pytest.raises(TargetError, match="has 2 mistakes") as caught:
            load_text(text, tmp_path)
        assert "Unknown key nom" in str(caught.value)
        assert "Expected the key name" in str(caught.value)

    def test_a_rate_for_a_pair_that_the_array_does_not_take_is_refused(self, tmp_path):
        rate = "[[compute.rates]]\nweight_bits = [2]\nactivation_bits = [2]\n"
        text = edited(TOY, "[[ops]]", f"{rate}macs_per_cycle = 9\n\n[[ops]]")
        with pytest.raises(TargetError, match=r"compute\.rates\[2\] is for widths"):
            load_text(text, tmp_path)

    def test_cpu_layers_and_the_cpu_table_need_each_other(self, tmp_path):
        without = re.sub(r"\[cpu\].*?\n\n", "", TOY, flags=re.DOTALL)
        with pytest.raises(TargetError, match="if and only if an entry of ops has"):
            load_text(without, tmp_path)
        text = catalogue_text("mpic") + '\n[cpu]\nfrequency_hz = 1\nsource = "x"\n'
        with pytest.raises(TargetError, match="if and only if an entry of ops has"):
            load_text(text, tmp_path)

    def test_the_array_runs_layers_with_weights_and_at_least_one(self, tmp_path):
        text = edited(catalogue_text("mpic"), '["conv", "dense"]', '["conv", "add"]')
        with pytest.raises(TargetError, match="'add' has no weights"):
            load_text(text, tmp_path)
        text = re.sub(r'\[\[ops\]\]\nunit = "array".*?\n\n', "", TOY, flags=re.DOTALL)
        with pytest.raises(TargetError, match="an entry of ops with unit 'array'"):
            load_text(text, tmp_path)

    def test_an_unknown_name_gets_a_hint(self):
        with pytest.raises(TargetError, match="Did you mean 'bitfusion_16x32'"):
            load_target("bitfusion_16x23")

    @pytest.mark.parametrize("name", ["../data/mpic", "", "data"])
    def test_a_name_is_no_path_into_the_catalogue(self, name):
        with pytest.raises(TargetError, match="Expected the name of a target"):
            load_target(name)

    def test_an_unreadable_file_is_named(self, tmp_path):
        with pytest.raises(TargetError, match=r"none\.toml.*No such file"):
            load_target(tmp_path / "none.toml")
        (tmp_path / "folder.toml").mkdir()
        with pytest.raises(TargetError, match="Is a directory"):
            load_target(tmp_path / "folder.toml")

    def test_a_file_may_start_with_a_byte_order_mark(self, tmp_path):
        path = tmp_path / "edited.toml"
        path.write_text(catalogue_text("mpic"), encoding="utf-8-sig")
        assert load_target(path) == load_target("mpic")

    def test_a_file_that_is_not_utf8_is_refused(self, tmp_path):
        path = tmp_path / "latin.toml"
        path.write_bytes(b'name = "\xe9"')
        with pytest.raises(TargetError, match=r"in TOML at .*latin\.toml"):
            load_target(str(path))

    @pytest.mark.parametrize(
        ("name", "old", "new", "message"),
        [
            ("bismo_ultra96", "depthwise_group = 10", "", "compute.depthwise_group"),
            ("bismo_ultra96", '"depthwise_conv", ', "", "compute.depthwise_group"),
            ("bitfusion_16x32", "[2, 4, 8]", "[2, 3, 4, 8]", "splits into, [2, 4, 8]"),
            ("bitfusion_16x32", "min_bits = 2", "min_bits = 4", "splits into, [4, 8]"),
            ("bitfusion_16x32", "max_bits = 8", "max_bits = 4", "splits into, [2, 4]"),
            ("bitfusion_16x32", "dram_pj_per_bit = 15.0\n", "", "energy.dram_pj_per_b"),
            (
                "ethos_u55_128",
                "stored_bits = 5.11",
                "stored_bits = 5.11, mean = 5",
                "Unknown key storage.kernels[3].mean.",
            ),
            (
                "bitfusion_16x32",
                "dram_bits_per_cycle",
                "weight_bits_per_cycle",
                "bandwidth.dram_bits_per_cycle",
            ),
        ],
    )
    def test_parts_that_do_not_fit_together_are_refused(
        self, name, old, new, message, tmp_path
    ):
        text = edited(catalogue_text(name), old, new)
        text = text.replace('assumed = ["depthwise_group"]\n', "", int(not new))
        with pytest.raises(TargetError, match=re.escape(message)):
            load_text(text, tmp_path)


def behaviour(target: Target) -> object:
    """Returns all that a target decides: cost, limits, legal widths, in full."""
    workload = conv_tail_workload()
    space = legal_space(conv_tail_space(), workload, target)
    policies = [
        conv_tail_policy(weights, features, scores)
        for weights in space.weights["conv"]
        for features in space.activations["conv"]
        for scores in space.activations["softmax"]
    ]
    costs = [estimate(workload, policy, target) for policy in policies]
    limits = [check_policy(workload, policy, target) for policy in policies]
    return space, costs, limits


class TestEveryKeyMatters:
    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("frequency_hz = 1_000_000", "frequency_hz = 1_000_001"),
            ("macs_per_cycle = 2\n", "macs_per_cycle = 3\n"),
            ("macs_per_cycle = 2\n", "cycles_per_mac = 2\n"),
            ("cycles_per_elem = 1", "cycles_per_elem = 2"),
            ("frequency_hz = 2_000_000", "frequency_hz = 3_000_000"),
            ("active_power_mw = 3", "active_power_mw = 4"),
            ("active_power_mw = 3", ""),
            ("active_power_mw = 5", "active_power_mw = 6"),
            ("weight_capacity_bytes = 352", "weight_capacity_bytes = 351"),
            ("activation_capacity_bytes = 1024", "activation_capacity_bytes = 1023"),
            ("layer_cycles = 10", "layer_cycles = 11"),
            (
                '["softmax"]\nactivation_bits = [4, 8]',
                '["softmax"]\nactivation_bits=[8]',
            ),
            ('[energy]\nkind = "active_power"\nactive_power_mw = 5\nsource="-"', ""),
        ],
    )
    def test_in_the_toy_target(self, old, new, toy, tmp_path):
        text = TOY.replace('_mw = 5\nsource = "made up"', '_mw = 5\nsource="-"')
        assert behaviour(load_text(edited(text, old, new), tmp_path)) != behaviour(toy)

    @pytest.mark.parametrize(
        "key",
        [
            "activation_bits_per_cycle = 64",
            "weight_bits_per_cycle = 64",
            "dram_bits_per_cycle = 32",
        ],
    )
    def test_a_narrow_port_slows_the_layer_down(self, key, toy, tmp_path):
        narrow = load_text(edited(TOY, key, key.split("=")[0] + "= 0.01"), tmp_path)
        workload, policy = conv_tail_workload(), conv_tail_policy()
        wide_cost = estimate(workload, policy, toy).layers[0]
        narrow_cost = estimate(workload, policy, narrow).layers[0]
        assert narrow_cost.cycles > wide_cost.cycles
        assert f"{narrow_cost.bound}_" in f"{key.replace('bits_per', 'load_per')}"

    @pytest.mark.parametrize(
        ("name", "old", "new"),
        [
            ("bismo_ultra96", "dm = 10", "dm = 4"),
            ("bismo_ultra96", "\ndk = 256", "\ndk = 16"),
            ("bismo_ultra96", "dn = 10", "dn = 1"),
            ("bitfusion_16x32", "rows = 16", "rows = 1"),
            ("bitfusion_16x32", "columns = 32", "columns = 1"),
            ("bitfusion_16x32", "core_pj_per_cycle = 235", "core_pj_per_cycle = 236"),
            ("bitfusion_16x32", "dram_pj_per_bit = 15.0", "dram_pj_per_bit = 6.0"),
            (
                "bitfusion_16x32",
                "weight_read_pj_per_bit = 0",
                "weight_read_pj_per_bit = 1",
            ),
            (
                "bitfusion_16x32",
                "weight_write_pj_per_bit = 0",
                "weight_write_pj_per_bit = 1",
            ),
            (
                "bitfusion_16x32",
                "input_read_pj_per_bit = 0",
                "input_read_pj_per_bit = 1",
            ),
            (
                "bitfusion_16x32",
                "input_write_pj_per_bit = 0",
                "input_write_pj_per_bit = 1",
            ),
            (
                "bitfusion_16x32",
                "output_read_pj_per_bit = 0",
                "output_read_pj_per_bit = 1",
            ),
            (
                "bitfusion_16x32",
                "output_write_pj_per_bit = 0",
                "output_write_pj_per_bit = 1",
            ),
            (
                "bitfusion_16x32",
                'accumulator_bits = 32\nsource = "hsharma35',
                'accumulator_bits = 16\nsource = "hsharma35',
            ),
        ],
    )
    def test_in_the_catalogue(self, name, old, new, tmp_path):
        # A wide port, so that memory does not hide the rest.
        wide = re.sub(r"(dram_bits_per_cycle =) \d+", r"\1 1e6", catalogue_text(name))
        changed = behaviour(load_text(edited(wide, old, new), tmp_path))
        assert changed != behaviour(load_text(wide, tmp_path))

    def test_descriptive_keys_are_kept_for_the_reader(self, toy):
        assert (toy.description, toy.validation[0].against) == ("a toy", "none")
        assert toy.clock.source == "made up"
        assert toy.ops[3].assumed == ("cycles_per_elem",)


class TestCheckPolicy:
    def test_a_policy_within_all_limits_has_no_violation(self, toy):
        policy = conv_tail_policy(weights=8, features=4, scores=4)
        assert check_policy(conv_tail_workload(), policy, toy) == ()

    @pytest.mark.parametrize(
        ("policy", "constraint", "weights", "activations"),
        [
            (conv_tail_policy(7, 4, 4), "constraint_weight_bits", "conv", None),
            (conv_tail_policy(4, 5, 4), "constraint_activation_bits", None, "conv"),
            (conv_tail_policy(4, 4, 5), "constraint_output_bits", None, "softmax"),
        ],
    )
    def test_a_width_that_is_not_taken_is_named(
        self, policy, constraint, weights, activations, toy
    ):
        found = check_policy(conv_tail_workload(), policy, toy)
        assert [item.constraint for item in found] == [constraint]
        assert (found[0].weights, found[0].activations) == (weights, activations)
        assert found[0].excess == 1.0
        assert CONSTRAINTS[constraint] in found[0].message
        assert found[0].layer in {"conv", "softmax"}

    def test_a_pair_that_is_not_taken_together_is_named(self, toy):
        workload = chain_workload()
        policy = Policy(
            weights={"first": 4, "second": 8}, activations={"first": 4, "second": 8}
        )
        found = check_policy(workload, policy, toy)
        assert [item.constraint for item in found] == ["constraint_bit_pairs"]
        assert (found[0].weights, found[0].activations) == ("second", "first")
        assert "[(4, 4), (4, 8), (8, 8)], got (8, 4)" in found[0].message

    def test_an_unsupported_kind_is_named(self, toy):
        workload = chain_workload(kind=OpKind.DEPTHWISE_CONV)
        policy = Policy(
            weights={"first": 8, "second": 8}, activations={"first": 8, "second": 8}
        )
        found = check_policy(workload, policy, toy)
        assert {item.constraint for item in found} == {"constraint_supported_ops"}

    @pytest.mark.parametrize(("capacity", "breaks"), [(352, False), (351, True)])
    def test_weight_memory_on_both_sides_of_its_boundary(
        self, capacity, breaks, tmp_path
    ):
        # 288 weights of 8 bits, 8 biases and 8 scales of 4 bytes each.
        target = load_text(edited(TOY, "= 352", f"= {capacity}"), tmp_path)
        found = check_policy(conv_tail_workload(), conv_tail_policy(8, 4, 4), target)
        assert bool(found) == breaks
        if breaks:
            assert found[0].constraint == "constraint_weight_memory"
            assert math.isclose(found[0].excess, 352 / 351 - 1)

    @pytest.mark.parametrize(("capacity", "breaks"), [(1024, False), (1023, True)])
    def test_activation_memory_on_both_sides_of_its_boundary(
        self, capacity, breaks, tmp_path
    ):
        # Softmax reads 512 bytes and writes 512 bytes.
        target = load_text(edited(TOY, "= 1024", f"= {capacity}"), tmp_path)
        found = check_policy(conv_tail_workload(), conv_tail_policy(), target)
        assert bool(found) == breaks
        if breaks:
            assert found[0].constraint == "constraint_activation_memory"

    def test_a_policy_of_another_network_is_refused(self, toy):
        workload = conv_tail_workload()
        extra = Policy(
            weights={"conv": 8, "cony": 8}, activations={"conv": 8, "softmax": 8}
        )
        with pytest.raises(PolicyError, match=r"'cony'.*Did you mean 'conv'"):
            check_policy(workload, extra, toy)
        with pytest.raises(PolicyError, match="no activations entry for 'softmax'"):
            check_policy(
                workload, Policy(weights={"conv": 8}, activations={"conv": 8}), toy
            )

    def test_each_constraint_is_one_sentence_for_the_manual(self):
        for name, text in CONSTRAINTS.items():
            assert name.startswith("constraint_")
            assert "\n" not in text
            assert text.endswith(".")


def chain_workload(kind: OpKind = OpKind.CONV) -> Workload:
    """Two 1x1 layers of 8 channels on 2x2 pixels."""
    layers = tuple(
        LayerWorkload(
            name=name,
            kind=kind,
            inputs=(source,),
            output=name,
            weights=name,
            macs=256,
            weight_elems=64,
            bias_elems=8,
        )
        for name, source in (("first", "image"), ("second", "first"))
    )
    return Workload(
        layers=layers,
        tensors={
            name: TensorWorkload(
                name=name,
                shape=(2, 2, 8),
                activation=None if name == "image" else name,
            )
            for name in ("image", "first", "second")
        },
        inputs=("image",),
        outputs=("second",),
    )


class TestLegalSpace:
    @pytest.mark.parametrize(
        ("name", "widths"),
        [
            ("cortex_m4_cmsis_nn", (8,)),
            ("bitfusion_16x32", (2, 4, 8)),
            ("mpic", (2, 4, 8)),
            ("bismo_ultra96", ALL_BITS),
        ],
    )
    def test_widths_of_the_catalogue(self, name, widths):
        space = legal_space(conv_tail_space(), conv_tail_workload(), load_target(name))
        assert dict(space.weights) == {"conv": widths}
        assert dict(space.activations) == {"conv": widths, "softmax": widths}

    def test_widths_that_the_network_excludes_stay_excluded(self):
        space = conv_tail_space().with_choices(weights={"conv": (3, 4, 5)})
        legal = legal_space(space, conv_tail_workload(), load_target("mpic"))
        assert legal.weights["conv"] == (4,)

    def test_pairs_propagate_through_the_network(self, toy):
        # The second layer reads 4 bits, so its weights must be 4 bits too.
        space = PolicySpace(
            weights={"first": ALL_BITS, "second": ALL_BITS},
            activations={"first": (4,), "second": ALL_BITS},
        )
        legal = legal_space(space, chain_workload(), toy)
        assert dict(legal.weights) == {"first": (4, 8), "second": (4,)}
        assert dict(legal.activations) == {"first": (4,), "second": (4, 8)}

    def test_the_remaining_space_may_hold_illegal_pairs(self, toy):
        space = PolicySpace(
            weights={"first": ALL_BITS, "second": ALL_BITS},
            activations={"first": ALL_BITS, "second": ALL_BITS},
        )
        legal = legal_space(space, chain_workload(), toy)
        assert legal.weights["second"] == legal.activations["first"] == (4, 8)

    def test_an_entry_without_a_remaining_width_is_named(self, toy):
        space = conv_tail_space().with_choices(weights={"conv": (5, 6)})
        with pytest.raises(
            TargetError, match=r"none of the \[5, 6\] bits.*weight entry 'conv'"
        ):
            legal_space(space, conv_tail_workload(), toy)
        space = conv_tail_space().with_choices(activations={"softmax": (3,)})
        with pytest.raises(TargetError, match="activation entry 'softmax'"):
            legal_space(space, conv_tail_workload(), toy)

    def test_a_pair_that_fixed_entries_exclude_is_named(self, toy):
        space = PolicySpace(
            weights={"first": (8,), "second": (8,)},
            activations={"first": (4,), "second": (8,)},
        )
        with pytest.raises(TargetError, match="tensor 'first' beside the weights"):
            legal_space(space, chain_workload(), toy)

    def test_a_tensor_without_an_entry_needs_8_bits(self, tmp_path):
        text = catalogue_text("mpic").replace("[2, 4, 8]", "[2, 4]")
        rates = re.sub(r"\n  \{[^\n]*\[8\][^\n]*", "", text)
        target = load_text(rates, tmp_path)
        with pytest.raises(TargetError, match="that the tensor 'image' may have"):
            legal_space(conv_tail_space(), conv_tail_workload(), target)

    def test_an_unsupported_kind_is_named(self, toy):
        space = PolicySpace(
            weights={"first": ALL_BITS, "second": ALL_BITS},
            activations={"first": ALL_BITS, "second": ALL_BITS},
        )
        with pytest.raises(TargetError, match="does not run layer 'first'"):
            legal_space(space, chain_workload(OpKind.DEPTHWISE_CONV), toy)

    def test_a_space_of_another_network_is_refused(self, toy):
        space = PolicySpace(weights={"conv": (8,)}, activations={"conv": (8,)})
        with pytest.raises(PolicyError, match="policy space has no activations entry"):
            legal_space(space, conv_tail_workload(), toy)


class TestMemory:
    @pytest.mark.parametrize(
        ("num_elems", "num_bits", "num_bytes"),
        [(0, 3, 0), (1, 2, 1), (4, 2, 1), (5, 2, 2), (8, 3, 3), (9, 3, 4), (3, 8, 3)],
    )
    def test_packed_bytes_round_up(self, num_elems, num_bits, num_bytes):
        assert packed_bytes(num_elems, num_bits) == num_bytes

    def test_weight_bytes_count_kernel_bias_and_scales(self):
        workload = conv_tail_workload()
        conv, softmax = workload.layers
        assert layer_weight_bytes(conv, workload, 3) == 108 + 32 + 32
        assert layer_weight_bytes(softmax, workload, None) == 0

    def test_peak_of_a_chain(self):
        workload = conv_tail_workload()
        liveness = Liveness(workload)
        # conv: 256 + 512 bytes; softmax: 512 + 512 * scores / 8.
        for scores, peak in ((2, 768), (4, 768), (5, 832), (8, 1024)):
            bits = tensor_bits(workload, conv_tail_policy(scores=scores))
            assert liveness.peak_bytes([*bits.values()]) == peak

    @pytest.mark.parametrize(
        ("read", "outputs", "last"),
        [
            ("second", ("add",), ("second", "add")),
            ("first", ("add",), ("first", "second", "add")),
            ("second", ("first", "add"), ("first", "second", "add")),
        ],
    )
    def test_tensors_are_alive_until_they_are_read_last(self, read, outputs, last):
        """And outputs of the network until its end."""
        chain = chain_workload()
        add = LayerWorkload(
            name="add", kind=OpKind.ADD, inputs=("second", read), output="add"
        )
        tensor = TensorWorkload(name="add", shape=(2, 2, 8), activation="add")
        workload = Workload(
            layers=(*chain.layers, add),
            tensors={**chain.tensors, "add": tensor},
            inputs=("image",),
            outputs=outputs,
        )
        first, second, third = Liveness(workload).live_names
        assert first == ("image", "first")
        assert second == ("first", "second")
        assert third == last

    def test_a_network_of_one_layer_has_one_step(self):
        first, *_ = chain_workload().layers
        tensors = {
            name: TensorWorkload(name=name, shape=(2, 2, 8), activation=None)
            for name in ("image", "first")
        }
        alone = Workload(
            layers=(first,), tensors=tensors, inputs=("image",), outputs=("first",)
        )
        assert Liveness(alone).live_names == (("image", "first"),)


TABLE_HEADER = "layer,weight_bits,activation_bits,value,unit\n"


def load_with_table(folder: Path, file: str) -> Target:
    text = (TARGETS / "mpic.toml").read_text()
    start, stop = text.index("[compute]"), text.index("[[ops]]")
    compute = f'[compute]\nkind = "table"\n{file}\nsource = "x"\n\n'
    (folder / "mine.toml").write_text(text[:start] + compute + text[stop:])
    return load_target(folder / "mine.toml")


class TestStrangeFiles:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("c,8,8,1e999,cycles", "line 2 of .*value of 1e-15 to 1e.15 cycles"),
            ("c,8,8,nan,cycles", "line 2 of .*got 'nan' cycles"),
            ("c,8,8,-1,ms", "line 2 of .*got '-1' ms"),
            ("c,8,8,1,5,cycles", "line 2 of .*expected 5 cells, got also"),
            ("c,9,8,1,cycles", r"line 2 of .*bits in 2\.\.8, got 9"),
            (",8,8,1,cycles", "line 2 of .*shape of a layer, got nothing"),
            ("x" * 200_000 + ",8,8,1,cycles", "line 2 of .*field larger"),
            ("", "rows below the header"),
        ],
    )
    def test_a_wrong_row_is_named(self, row, message, tmp_path):
        (tmp_path / "a.csv").write_text(TABLE_HEADER + row + "\n")
        with pytest.raises(TargetError, match=message):
            load_with_table(tmp_path, 'file = "a.csv"')

    def test_a_byte_order_mark_is_no_part_of_the_header(self, tmp_path):
        (tmp_path / "a.csv").write_text(TABLE_HEADER + "c,8,8,7,cycles\n", "utf-8-sig")
        (entry,) = load_with_table(tmp_path, 'file = "a.csv"').compute.entries
        assert entry.cycles == 7.0

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_lines_may_end_as_anywhere(self, end, tmp_path):
        text = TABLE_HEADER + "c,8,8,7,cycles\nd,8,8,9,cycles\n"
        (tmp_path / "a.csv").write_bytes(text.replace("\n", end).encode())
        entries = load_with_table(tmp_path, 'file = "a.csv"').compute.entries
        assert [(one.layer, one.cycles) for one in entries] == [("c", 7.0), ("d", 9.0)]

    @pytest.mark.parametrize(
        ("least", "beyond"), [("1e15", "1.01e15"), ("1e-15", "0.99e-15")]
    )
    def test_both_sides_of_the_range_of_cycles(self, least, beyond, tmp_path):
        for value in (least, beyond):
            (tmp_path / "a.csv").write_text(f"{TABLE_HEADER}c,8,8,{value},cycles\n")
            if value == least:
                (entry,) = load_with_table(tmp_path, 'file = "a.csv"').compute.entries
                assert entry.cycles == float(value)
            else:
                with pytest.raises(TargetError, match=r"value of 1e-15 to 1e\+15"):
                    load_with_table(tmp_path, 'file = "a.csv"')

    def test_the_size_of_a_table_is_bounded(self, tmp_path, monkeypatch):
        text = TABLE_HEADER + "c,8,8,7,cycles\n"
        (tmp_path / "a.csv").write_text(text)
        monkeypatch.setattr(latency_table, "_MAX_BYTES", len(text))
        assert load_with_table(tmp_path, 'file = "a.csv"').compute.entries
        monkeypatch.setattr(latency_table, "_MAX_BYTES", len(text) - 1)
        with pytest.raises(TargetError, match=f"of at most {len(text) - 1} bytes"):
            load_with_table(tmp_path, 'file = "a.csv"')

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('file = "/dev/zero"', "relative path within the folder"),
            ('file = "../a.csv"', "relative path within the folder"),
            ('file = "link.csv"', "relative path within the folder"),
            ('file = "."', "a regular file as latency table"),
            ('file = "a\\u0000b"', "null (byte|character)"),
            ("", "under the key compute.file, got nothing"),
        ],
    )
    def test_a_table_is_a_file_beside_its_target(self, line, message, tmp_path):
        folder = tmp_path / "inside"
        folder.mkdir()
        (tmp_path / "a.csv").write_text(TABLE_HEADER + "c,8,8,7,cycles\n")
        (folder / "link.csv").symlink_to(tmp_path / "a.csv")
        with pytest.raises(TargetError, match=message):
            load_with_table(folder, line)

    @pytest.mark.parametrize(
        ("frequency", "message"),
        [
            ("9" * 400, "frequency_hz: expected less than or equal"),
            ("9" * 5000, "in TOML"),
            ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ],
    )
    def test_a_strange_number_is_a_mistake(self, frequency, message, tmp_path):
        text = (TARGETS / "mpic.toml").read_text()
        old = "frequency_hz = 250_000_000"
        (tmp_path / "a.toml").write_text(
            edited(text, old, f"frequency_hz = {frequency}")
        )
        with pytest.raises(TargetError, match=message):
            load_target(tmp_path / "a.toml")

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("layer_cycles = 10", "layer_cycles = 1e308", "less than or equal to 1"),
            ("macs_per_cycle = 2", "macs_per_cycle = 1e-308", "at least 1e-15"),
        ],
    )
    def test_no_figure_makes_a_total_infinite(self, old, new, message, tmp_path):
        with pytest.raises(TargetError, match=message):
            load_text(edited(TOY, old, new), tmp_path)

    def test_a_null_in_a_path_is_a_mistake(self):
        with pytest.raises(TargetError, match="a path for a target"):
            load_target("a\0.toml")
