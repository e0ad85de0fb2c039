"""Memory on microcontrollers: a plan by hand, and what the interpreter reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fixtures.paths import SHIPPED
from fixtures.runs import run
from fixtures.samples import net_artifact

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.errors import ExportError, PolicyError
from matar_tf.evolution import Limit, SearchOptions
from matar_tf.policy import ALL_BITS, Policy
from matar_tf.pricing.model import CostModel
from matar_tf.results import Objective
from matar_tf.samplers import IndependentSampler, draw_policies
from matar_tf.targets import load_target
from matar_tf.tflite.arena import ArenaSizes, Lifetime, planned_bytes
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.c_sources import arena_bytes
from matar_tf.tflite.file_size import FileSizes


class TestPlan:
    def test_nothing_takes_nothing(self) -> None:
        assert planned_bytes([]) == 0

    def test_tensors_that_are_never_alive_together_share_a_place(self) -> None:
        pair = [Lifetime(160, 0, 1), Lifetime(320, 2, 3)]
        assert planned_bytes(pair) == 320
        touching = [Lifetime(160, 0, 2), Lifetime(320, 2, 3)]
        assert planned_bytes(touching) == 480

    def test_sizes_are_rounded_up_to_sixteen(self) -> None:
        assert planned_bytes([Lifetime(1, 0, 1), Lifetime(17, 0, 1)]) == 48

    def test_the_largest_come_first_and_small_ones_fill_gaps(self) -> None:
        # 64 at 0 (steps 0..1), 48 at 64 (1..3), 32 at 0 (2..3), 16 at 32 (3..3)
        tensors = [
            *(Lifetime(16, 3, 3), Lifetime(48, 1, 3)),
            *(Lifetime(64, 0, 1), Lifetime(32, 2, 3)),
        ]
        assert planned_bytes(tensors) == 112

    def test_of_equal_ones_the_later_comes_first(self) -> None:
        # b at 0 (0..4), then a at 16 (0..1), then c, which meets b alone, at 16.
        a, c, b = Lifetime(16, 0, 1), Lifetime(16, 2, 3), Lifetime(16, 0, 4)
        assert planned_bytes([a, c, b]) == 32


def sizes_of(artifact: Artifact, profile: str = "tflm") -> ArenaSizes:
    builder = ModelBuilder(artifact)
    return ArenaSizes(builder, FileSizes(builder, profile=profile), profile=profile)


class TestArena:
    @pytest.mark.parametrize(
        "name", ["digits_net", "kernels_wide", "concat_shared_wide", "residual_bn_wide"]
    )
    def test_it_is_what_the_interpreter_reports(self, name: str) -> None:
        """Kernels of shared layers are decoded for each call; sums are cut off."""
        artifact = net_artifact(name)
        sizes = sizes_of(artifact)
        policies = [
            *(artifact.space.named(one) for one in ("w8a8", "w6a8", "w2a2")),
            *draw_policies(artifact.space, IndependentSampler(bits=ALL_BITS), 2, 7),
        ]
        builder = ModelBuilder(artifact)
        for policy in policies:
            content = builder.build(policy, profile="tflm")
            assert sizes(policy) == arena_bytes(content)

    def test_it_grows_by_decoded_kernels_alone(self) -> None:
        artifact = net_artifact("digits_net")
        plain, tables = (sizes_of(artifact, one) for one in ("int8", "tflm"))
        wide, narrow = (artifact.space.named(one) for one in ("w8a8", "w2a2"))
        assert plain(wide) == plain(narrow) == tables(wide) < tables(narrow)

    def test_a_policy_of_another_network_is_refused(self) -> None:
        with pytest.raises(PolicyError):
            sizes_of(net_artifact("digits_net"))(Policy(weights={}, activations={}))

    def test_files_that_it_does_not_run_are_refused(self) -> None:
        with pytest.raises(ExportError, match=r"int8 or tflm.*'packed-litert'.*--prof"):
            sizes_of(net_artifact("digits_net"), "packed-litert")

    def test_the_targets_peak_is_what_the_interpreter_plans(self) -> None:
        """ResNet-8: 48 KiB of tensors, 52 with the largest kernel: not its own peak."""
        artifact = read_artifact(SHIPPED)
        model = CostModel(artifact.workload, load_target("tflm_cortex_m"))
        found = []
        for name, planned in (("w8a8", 49_152), ("w2a2", 53_248)):
            policy = artifact.space.named(name)
            assert model.totals(policy)["peak_activation_bytes"] == planned
            content = ModelBuilder(artifact).build(policy, profile="tflm")
            assert _reported(content, "head") == planned
            found.append(arena_bytes(content))
        sizes = sizes_of(artifact)
        assert found == [sizes(artifact.space.named(name)) for name in ("w8a8", "w2a2")]


def _reported(content: bytes, what: str) -> int:
    import re
    import subprocess
    import sys

    from matar_tf.tflite import c_sources

    sizes = c_sources._ARENA_LIMIT.to_bytes(8, "little") + (1).to_bytes(8, "little")
    done: Any = subprocess.run(
        [sys.executable, "-c", c_sources._REPORT, *sys.path],
        input=sizes + bytes(content),
        capture_output=True,
        check=True,
    )
    found = re.search(rf"Arena allocation {what} (\d+) bytes", done.stderr.decode())
    assert found
    return int(found[1])


class TestSearch:
    def test_flash_and_ram_are_bounded_and_true(self, tmp_path: Path) -> None:
        """Of the front's own files; w2a2 takes 5,152 bytes of arena, w8a8 2,912."""
        options = SearchOptions(
            max_evaluations=12,
            population_size=8,
            objectives=(Objective.parse("accuracy"), Objective(name="arena_bytes")),
            limits=(
                Limit(name="arena_bytes", bound=5000),
                Limit(name="file_bytes", bound=9500),
            ),
        )
        (result,) = run(
            tmp_path / "run", "tflm_cortex_m", options=options, profile="tflm"
        )
        assert result.front
        for one in result.front:
            path = tmp_path / "run/tflm_cortex_m" / f"{one.name}.tflite"
            content = path.read_bytes()
            assert one.costs["file_bytes"] == len(content) <= 9500
            assert one.costs["arena_bytes"] == arena_bytes(content) <= 5000
        assert result.provenance.versions["not validated"].startswith("With 8-bit")

    def test_a_profile_without_an_arena_is_refused(self, tmp_path: Path) -> None:
        options = SearchOptions(limits=(Limit(name="arena_bytes", bound=5000),))
        with pytest.raises(ExportError, match="profile int8 or tflm for arena_bytes"):
            run(tmp_path, "mpic", options=options, profile="packed-litert")
