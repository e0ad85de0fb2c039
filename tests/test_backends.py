"""Backends: Vela's own figures, the fallback, the table of policies by targets."""

from __future__ import annotations

import csv
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.digits import digits_artifact, powers_of_two
from fixtures.paths import TARGETS
from fixtures.samples import net_artifact

from matar_tf.cost_matrix import CostMatrix, MatrixEntry
from matar_tf.errors import ExportError, SearchError, TargetError
from matar_tf.pricing import check_policy, legal_space
from matar_tf.pricing.model import estimate
from matar_tf.reporting import matrix_to_csv, matrix_to_json, matrix_to_markdown
from matar_tf.run.costs import PolicyCosts, cost_matrix
from matar_tf.targets import Target, load_target
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import num_quantized_ends
from matar_tf.tflite.vela import compile_with_vela, has_vela, vela_version

TARGET = load_target("ethos_u55_128")


def compiled(name: str, **changes):
    artifact = digits_artifact()
    content = ModelBuilder(artifact).build(artifact.space.named(name))
    return compile_with_vela(content, TARGET.backend.model_copy(update=changes))


class TestVela:
    def test_it_says_what_its_command_line_says(self, tmp_path: Path):
        artifact = digits_artifact()
        content = ModelBuilder(artifact).build(artifact.space.named("w8a8"))
        (tmp_path / "x.tflite").write_bytes(content)
        command = [
            str(Path(sys.executable).parent / "vela"),
            str(tmp_path / "x.tflite"),
        ]
        for flag, value in (
            ("accelerator-config", "ethos-u55-128"),
            ("system-config", "Ethos_U55_High_End_Embedded"),
            ("memory-mode", "Shared_Sram"),
            ("output-dir", str(tmp_path)),
        ):
            command += [f"--{flag}", value]
        subprocess.run(command, check=True, capture_output=True)
        summary = next(tmp_path.glob("*summary*.csv"))
        row = next(csv.DictReader(summary.read_text().splitlines()))
        found = compiled("w8a8")
        assert found.cycles == float(row["cycles_total"])
        assert found.weight_bytes == int(row["total_npu_encoded_weights"])
        assert found.latency_ms == pytest.approx(found.cycles / 500e3)
        assert found.sram_bytes == 1024 * float(row["sram_memory_used"])
        assert found.flash_bytes > found.weight_bytes
        assert found.num_cpu_ops == 2  # quantizing the input, dequantizing the output

    def test_narrow_weights_are_coded_in_fewer_bytes(self):
        wide, narrow, ternary = (compiled(f"w{bits}a8") for bits in (8, 4, 2))
        assert wide.weight_bytes > 1.5 * narrow.weight_bytes
        assert narrow.weight_bytes > 1.2 * ternary.weight_bytes

    def test_the_accelerator_matters(self):
        small = compiled("w8a8", accelerator="ethos-u55-32")
        assert small.cycles > compiled("w8a8").cycles

    def test_nothing_is_printed(self, capfd: pytest.CaptureFixture[str]):
        compiled("w8a8")
        captured = capfd.readouterr()
        assert (captured.out, captured.err) == ("", "")

    @pytest.mark.parametrize("key", ["accelerator", "system_config", "memory_mode"])
    def test_an_unknown_configuration_is_named(self, key):
        with pytest.raises(ExportError, match="'nonsense'"):
            compiled("w8a8", **{key: "nonsense"})

    def test_a_file_that_it_does_not_compile_is_an_error(self):
        with pytest.raises(ExportError, match="Expected Vela to compile"):
            compile_with_vela(b"no model", TARGET.backend)


class TestPolicyCosts:
    def test_the_host_quantizes_each_input_and_dequantizes_each_output(self):
        artifact = net_artifact("two_ends")
        costs = PolicyCosts(artifact, TARGET)
        assert costs.kind == "compiler estimate"
        assert costs(artifact.space.named("w8a8"))["latency_ms"] > 0
        content = ModelBuilder(artifact).build(artifact.space.named("w8a8"))
        assert num_quantized_ends(content) == 4  # two inputs, two outputs

    def test_a_compiler_that_is_there_is_used(self):
        artifact = digits_artifact()
        costs = PolicyCosts(artifact, TARGET)
        policy = artifact.space.named("w4a8")
        found, expected = costs(policy), compiled("w4a8")
        assert has_vela()
        assert costs.kind == "compiler estimate"
        assert costs.versions == {"ethos-u-vela": vela_version()}
        assert found["cycles"] == expected.cycles
        assert found["latency_ms"] == expected.latency_ms
        assert found["weight_bytes"] == expected.weight_bytes
        assert found["peak_activation_bytes"] == expected.sram_bytes
        assert found["energy_pj"] is None
        modelled = estimate(artifact.workload, policy, TARGET)
        assert found["bops"] == modelled.bops
        assert found["mean_weight_bits"] == modelled.mean_weight_bits

    def test_the_model_serves_where_there_is_no_compiler(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "ethosu", None)  # as if not installed
        artifact = digits_artifact()
        costs = PolicyCosts(artifact, TARGET)
        policy = artifact.space.named("w4a8")
        expected = estimate(artifact.workload, policy, TARGET)
        assert (costs.kind, costs.versions) == ("modelled", {})
        assert costs(policy) == {
            "latency_ms": expected.latency_ms,
            "cycles": expected.cycles,
            "energy_pj": expected.energy_pj,
            "weight_bytes": expected.weight_bytes,
            "peak_activation_bytes": expected.peak_activation_bytes,
            "bops": expected.bops,
            "macs": expected.macs,
            "mean_weight_bits": expected.mean_weight_bits,
            "mean_activation_bits": expected.mean_activation_bits,
        }

    def test_an_operator_that_runs_elsewhere_is_not_free(self):
        # The NPU takes strides up to 4.
        artifact = net_artifact("stride_of_five")
        costs = PolicyCosts(artifact, TARGET)
        with pytest.raises(TargetError, match="3 on the CPU"):
            costs(artifact.space.named("w8a8"))

    def test_a_target_without_a_backend_is_modelled(self):
        costs = PolicyCosts(digits_artifact(), load_target("bismo_haq"))
        assert (costs.kind, costs.versions) == ("modelled", {})

    def test_one_that_was_compared_with_nothing_says_so(self):
        costs = PolicyCosts(digits_artifact(), load_target("mpic"))
        assert costs.kind == "modelled, not validated"
        assert list(costs.versions) == ["not validated"]
        assert "depthwise layers" in costs.versions["not validated"]

    def test_it_says_that_a_device_rounds_scales(self):
        costs = PolicyCosts(digits_artifact(), load_target("ti_npu"))
        assert "those of free scales: ti_npu has" in costs.versions["scales"]
        shifting = powers_of_two(digits_artifact())
        assert "scales" not in PolicyCosts(shifting, load_target("ti_npu")).versions

    def test_a_target_that_lacks_a_kind_takes_no_policy(self):
        """The others keep their figures; only logic of a layer's own has LUTs."""
        artifact = net_artifact("kernels")
        policies = {"w8a8": artifact.space.named("w8a8")}
        targets = [load_target(name) for name in ("max78000", "fpga_lut")]
        refused, priced = cost_matrix(artifact, policies, targets).entries
        assert not refused.legal
        assert re.search(r"'depthwise_conv'.*list the kind", refused.violations[0])
        assert priced.legal
        text = matrix_to_markdown(cost_matrix(artifact, policies, targets))
        header = "| policy | max78000 (modelled, not validated) | fpga_lut (modelled, "
        assert f"## LUTs\n\n{header}" in text


@pytest.fixture(scope="module")
def matrix() -> CostMatrix:
    space = digits_artifact().space
    policies = {name: space.named(name) for name in ("w8a8", "w4a4", "w3a8")}
    targets = [load_target(name) for name in ("mpic", "bismo_haq", "ethos_u55_256")]
    return cost_matrix(digits_artifact(), policies, targets)


class TestLatencyTable:
    def test_its_figures_are_marked_in_both_tables(self, tmp_path: Path):
        artifact = digits_artifact()
        target = table_target(tmp_path)
        costs = PolicyCosts(artifact, target)
        assert costs.kind == "latency table"
        assert costs.versions == {"latency table": "table.csv"}
        found = costs(artifact.space.named("w8a8"))
        num_kernels = sum(one.weights is not None for one in artifact.workload.layers)
        assert found["cycles"] > 1000 * num_kernels
        (entry,) = cost_matrix(
            artifact, {"w8a8": artifact.space.named("w8a8")}, [target]
        ).entries
        assert (entry.kind, entry.figures) == (costs.kind, found)

    def test_a_policy_that_needs_a_missing_row_is_not_allowed(self, tmp_path: Path):
        artifact = digits_artifact()
        target = table_target(tmp_path)
        policies = {name: artifact.space.named(name) for name in ("w8a8", "w4a8")}
        found = cost_matrix(artifact, policies, [target])
        assert [entry.legal for entry in found.entries] == [True, False]
        text = matrix_to_markdown(found)
        assert "not allowed" in text
        assert "- w4a8 on mpic: Weights and input must use widths that the latency" in (
            text
        )
        legal = legal_space(artifact.space, artifact.workload, target)
        assert set(legal.weights.values()) == {(8,)}

    def test_each_violation_names_layer_and_widths(self, tmp_path: Path):
        artifact = digits_artifact()
        found = check_policy(
            artifact.workload, artifact.space.named("w4a8"), table_target(tmp_path)
        )
        assert {one.constraint for one in found} == {"constraint_latency_table"}
        conv = next(one for one in found if one.layer == "conv")
        assert conv.weights == "conv"
        assert "Layer 'conv' of kind 'conv': expected a row" in conv.message
        assert "bits (4, 8), got none" in conv.message

    def test_without_any_row_of_a_layer_the_target_cannot_run(self, tmp_path: Path):
        artifact = digits_artifact()
        target = table_target(tmp_path, without="conv")
        with pytest.raises(TargetError, match=r"Expected a row for layer 'conv'.*add"):
            legal_space(artifact.space, artifact.workload, target)


def table_target(folder: Path, without: str = "") -> Target:
    """The target mpic with a row of 1000 cycles for each layer with a kernel."""
    rows = "layer,weight_bits,activation_bits,value,unit\n" + "".join(
        f"{one.name},8,8,1000,cycles\n"
        for one in digits_artifact().workload.layers
        if one.weights and one.name != without
    )
    (folder / "table.csv").write_text(rows)
    path = TARGETS / "mpic.toml"
    text = path.read_text()
    start, stop = text.index("[compute]"), text.index("[[ops]]")
    compute = '[compute]\nkind = "table"\nfile = "table.csv"\nsource = "x"\n\n'
    (folder / "mine.toml").write_text(text[:start] + compute + text[stop:])
    return load_target(folder / "mine.toml")


class TestCostMatrix:
    def test_it_has_a_row_and_a_column(self) -> None:
        with pytest.raises(SearchError, match="one policy and one target, got 0 and 1"):
            cost_matrix(digits_artifact(), {}, [load_target("mpic")])

    def test_every_pair_is_priced_or_refused_with_reasons(self, matrix):
        space, workload = digits_artifact().space, digits_artifact().workload
        for entry in matrix.entries:
            policy, target = space.named(entry.policy), load_target(entry.target)
            violations = check_policy(workload, policy, target)
            assert entry.violations == tuple(one.message for one in violations)
            if entry.kind == "modelled" and entry.legal:
                cost = estimate(workload, policy, target)
                assert entry.figures["cycles"] == pytest.approx(cost.cycles)
        assert [one.legal for one in matrix.entries] == [
            *(True, True, False),
            *(True, True, True),
            *(True, False, True),
        ]

    def test_the_tables_say_where_figures_come_from_and_what_is_missing(self, matrix):
        text = matrix_to_markdown(matrix)
        assert "ethos_u55_256 (compiler estimate)" in text
        assert "mpic (modelled, not validated)" in text
        assert "bismo_haq (modelled)" in text
        assert "## latency [ms]" in text
        weights = text[text.index("## weights") : text.index("## peak")]
        assert "mpic (stored bytes)" in weights
        assert "ethos_u55_256 (compiler estimate)" in weights
        assert "- w3a8 on mpic: Weights must use a width" in text
        energy = text[text.index("## energy") : text.index("## weights")]
        row = next(line for line in energy.splitlines() if "| w8a8" in line)
        assert row.split(" | ")[2:] == ["-", "- |"]

    def test_csv_and_json_hold_the_same_figures(self, matrix):
        rows = list(csv.DictReader(matrix_to_csv(matrix).splitlines()))
        document = matrix_to_json(matrix)
        assert document["schema_version"] == 1
        assert len(rows) == len(document["entries"]) == 9
        for row, entry in zip(rows, document["entries"], strict=True):
            assert (row["policy"], row["target"]) == (entry["policy"], entry["target"])
            assert row["legal"] == ("yes" if entry["legal"] else "no")
            for name, value in entry["figures"].items():
                assert row[name] == ("" if value is None else str(value))
            if not entry["legal"]:
                assert row["cycles"] == ""
                assert row["violation"] == entry["violations"][0]

    def test_two_targets_of_one_name_are_refused(self):
        artifact = digits_artifact()
        copy = load_target("mpic").model_copy(update={"description": "a copy"})
        with pytest.raises(
            TargetError, match="got 'mpic' twice; name it once, or change the key"
        ):
            cost_matrix(
                artifact,
                {"w8a8": artifact.space.named("w8a8")},
                [load_target("mpic"), copy],
            )

    def test_it_is_complete(self, matrix):
        with pytest.raises(SearchError, match="one entry for each of 3 policies"):
            dataclasses.replace(matrix, entries=matrix.entries[:-1])

    @pytest.mark.parametrize(
        ("figures", "violations"), [({}, ()), ({"cycles": 1.0}, ("no",))]
    )
    def test_an_entry_has_figures_or_reasons(self, figures, violations):
        with pytest.raises(SearchError, match="either figures or violations"):
            MatrixEntry(
                policy="p",
                target="t",
                kind="modelled",
                figures=figures,
                violations=violations,
            )
