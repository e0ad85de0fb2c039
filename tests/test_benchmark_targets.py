"""Published figures: what the files of the catalogue claim is what comes out."""

from __future__ import annotations

import dataclasses

import jsonschema
import numpy as np
import pytest
import tomllib
from fixtures.paths import ROOT, TARGETS

from matar_tf.errors import DataError
from matar_tf.targets import list_targets, load_target, target_json_schema
from tools.benchmarks.points import kernel_cycles, points, to_markdown
from tools.benchmarks.reference_bitfusion import PUBLISHED_CYCLES, bitfusion_networks
from tools.benchmarks.reference_networks import (
    autoencoder,
    ds_cnn,
    inception_v1,
    inception_v4,
    mobilenet_v1,
    mobilenet_v2,
    resnet8,
)
from tools.benchmarks.targets import check_points, measure_reference_data

POINTS = points()


class TestNetworks:
    @pytest.mark.parametrize(
        ("workload", "macs", "num_kernels", "num_weights"),
        [
            # MLPerf Tiny (Banbury et al., 2021); parameters without batch norm
            (resnet8(), 12_501_632, 10, 77_360),
            (ds_cnn(), 2_656_768, 10, 22_016),
            (mobilenet_v1(96, 0.25, 2), 7_489_664, 28, 208_112),
            (autoencoder(), 264_192, 10, 264_192),
            # Howard et al.: 569 million MACs; Sandler et al.: 300 million
            (mobilenet_v1(224, 1.0, 1001), 568_741_376, 28, 4_210_112),
            (mobilenet_v2(1001), 300_775_552, 53, 3_471_040),
            # Szegedy et al.: 1.5 and 12.3 thousand million MACs, 6.6 and 42.6 million
            # parameters; 9 modules of 6 convolutions; 4, 7 and 3 modules of 7, 10, 10
            (inception_v1(1001), 1_498_377_216, 58, 6_610_368),
            (inception_v4(1001), 12_253_976_160, 150, 42_617_184),
        ],
    )
    def test_have_the_known_size(self, workload, macs, num_kernels, num_weights):
        assert workload.macs == macs
        kernels = [one for one in workload.layers if one.weights]
        assert len(kernels) == num_kernels
        assert sum(one.weight_elems for one in kernels) == num_weights

    def test_bit_fusions_networks_have_widths_for_all_kernels(self):
        networks = bitfusion_networks()
        assert networks.keys() == PUBLISHED_CYCLES.keys()
        for network in networks.values():
            kernels = [one.name for one in network.workload.layers if one.weights]
            assert list(network.widths) == kernels


class TestPoints:
    @pytest.mark.parametrize("name", list_targets())
    def test_a_target_claims_the_error_that_comes_out(self, name):
        stated = load_target(name).validation[0].max_error_percent
        found = [one for one in POINTS if one.target == name and one.unit != "mJ"]
        errors = [100 * abs(one.error) for one in found]
        if stated is None or name == "host_litert":  # its error is this machine's
            assert not errors
        elif name == "bismo_haq":  # the stated error is that of all uniform widths
            assert max(errors) <= stated
        else:
            assert stated == pytest.approx(max(errors), abs=0.06)

    def test_bit_fusion_is_reproduced_cycle_by_cycle(self):
        found = [one for one in POINTS if one.target == "bitfusion_16x32"]
        assert len(found) == 8
        assert all(one.predicted == one.published for one in found)

    def test_only_figures_that_fixed_no_parameter_are_a_validation(self):
        kinds = {one.target: one.kind for one in POINTS}
        for name, kind in kinds.items():
            assert load_target(name).validation[0].kind == kind

    def test_the_table_of_the_documentation_is_this_one(self):
        path = ROOT / "matar_tf/targets/VALIDATION.md"
        assert to_markdown(POINTS) in path.read_text(encoding="utf-8")

    def test_a_wrong_figure_falls_short(self):
        bars = {bar.name: bar.held for bar in check_points(POINTS)}
        wrong = [
            dataclasses.replace(one, published=one.published * 1.3) for one in POINTS
        ]
        for bar in check_points(wrong):
            if "worst" in bar.name or "against Vela" in bar.name:
                assert bars[bar.name]
                assert not bar.held


class TestReferenceData:
    def test_missing_tables_are_named(self, tmp_path):
        with pytest.raises(DataError, match=r"haq_bismo.*found none"):
            list(measure_reference_data(tmp_path))

    def test_tables_are_compared_entry_by_entry(self, tmp_path):
        # Tables made of the model's own figures, one of them off.
        workload, target = mobilenet_v2(100, bias=False), load_target("bismo_haq")
        table = np.array(
            [
                [kernel_cycles(workload, w, a, target, 16) for a in range(1, 9)]
                for w in range(1, 9)
            ]
        ).transpose(2, 0, 1)
        table[0, 7, 7] *= 2
        np.save(tmp_path / "haq_bismo_mobilenetv2_batch16.npy", table)
        header = "M,Network,Layer,Cycles,Bandwidth (bits/cycle),WBUF Size (bits),"
        header += "IBUF Size (bits),OBUF Size (bits)\n"
        rows = "32,RNN,matmul/MatMul,394583,192,65536,32768,16384\n"
        rows += "32,LSTM,matmul/MatMul,674350,192,65536,32768,16384\n"
        (tmp_path / "bitfusion_sweep.csv").write_text(header + rows)
        entry, network, rank, layer = measure_reference_data(tmp_path)
        assert entry.figure == f"{100 * 0.5 / 3392:.2f} %, worst 50.0 %"
        assert entry.held
        assert network.held
        assert rank.held
        assert layer.figure == "25.00 %, worst 50.00 %"
        assert not layer.held


class TestSchema:
    def test_every_file_of_the_catalogue_fits(self):
        schema = target_json_schema()
        for name in list_targets():
            path = TARGETS / f"{name}.toml"
            jsonschema.validate(tomllib.loads(path.read_text("utf-8")), schema)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("[overhead]", "[overheat]"),
            ("frequency_hz = 250_000_000", 'frequency_hz = "fast"'),
            ('class = "mixed"', 'class = "mixd"'),
            ("layer_cycles = 0", "layer_cycles = -1"),
        ],
    )
    def test_a_mistake_does_not(self, old, new):
        text = (TARGETS / "mpic.toml").read_text("utf-8")
        assert old in text
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(
                tomllib.loads(text.replace(old, new)), target_json_schema()
            )

    def test_rows_of_a_latency_table_are_not_part_of_the_file(self):
        text = str(target_json_schema())
        assert "TableCompute" in text
        assert "TableEntry" not in text
