"""Buffers too small for some widths: a limit of the target, not the end of a run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from fixtures.blocking import BUFFERS, TARGET, blocking, nest
from fixtures.digits import digits_artifact
from fixtures.paths import TARGETS
from fixtures.runs import run_all

from matar_tf.errors import TargetError
from matar_tf.policy import Policy
from matar_tf.pricing import check_policy, legal_pairs, legal_space
from matar_tf.pricing.blocking import fits_buffers
from matar_tf.pricing.model import CostModel
from matar_tf.run.costs import PolicyCosts, cost_matrix
from matar_tf.space import PolicySpace
from matar_tf.targets import Target, load_target
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload, Workload

# Two layers of 32 channels and 3 x 11 kernels. The smallest tile of weights has 33 of
# them in each of 32 columns, padded to rows: 16 at 8 x 8 bits, 256 at 2 x 2 bits. At
# 8 x 8 these are 48 * 32 * 8 bits = 1,536 bytes; twice that, double buffered.
LEAST_BYTES = {
    **{(8, 8): 3072, (8, 4): 4096, (8, 2): 4096},
    **{(4, 8): 2048, (4, 4): 2048, (4, 2): 4096},
    **{(2, 8): 1024, (2, 4): 2048, (2, 2): 4096},
}


def small_target(weight_bytes: int) -> Target:
    changes = {
        "name": "small",
        "buffers": BUFFERS.model_copy(update={"weight_bytes": weight_bytes}),
    }
    return TARGET.model_copy(update=changes)


def two_layers() -> Workload:
    layers = tuple(
        LayerWorkload(
            name=name,
            kind=OpKind.CONV,
            inputs=(source,),
            output=name,
            weights=name,
            macs=64 * 33 * 32 * 32,
            weight_elems=33 * 32 * 32,
            kernel_size=(3, 11),
        )
        for name, source in (("a", "image"), ("b", "a"))
    )
    entries = {"image": None, "a": "a", "b": "b"}
    return Workload(
        layers=layers,
        tensors={
            name: TensorWorkload(name=name, shape=(8, 8, 32), activation=entry)
            for name, entry in entries.items()
        },
        inputs=("image",),
        outputs=("b",),
    )


SPACE = PolicySpace(
    weights={"a": (2, 4, 8), "b": (2, 4, 8)},
    activations={"a": (2, 4, 8), "b": (8,)},
)


class TestSmallestTiles:
    @pytest.mark.parametrize("widths", LEAST_BYTES)
    def test_fit_on_both_sides_of_the_boundary(self, widths: tuple[int, int]) -> None:
        loops = nest(
            output_size=(8, 8), kernel_size=(3, 11), in_channels=32, out_channels=32
        )
        for missing, fits in ((0, True), (1, False)):
            buffers = BUFFERS.model_copy(
                update={"weight_bytes": LEAST_BYTES[widths] - missing}
            )
            assert fits_buffers(loops, widths, TARGET.compute, buffers) == fits

    @pytest.mark.parametrize("unrolled", [False, True])
    @pytest.mark.parametrize("channelwise", [False, True])
    @pytest.mark.parametrize("key", ["weight_bytes", "input_bytes", "output_bytes"])
    def test_fit_where_some_tiles_can_be_priced(
        self, key: str, unrolled: bool, channelwise: bool
    ) -> None:
        found = set()
        loops = nest(
            output_size=(4, 6),
            kernel_size=(3, 5),
            in_channels=1 if channelwise else 20,
            out_channels=50,
            unrolled=unrolled,
            channelwise=channelwise,
        )
        for num_bytes, widths in itertools.product(
            (4, 16, 64, 256, 600, 1024, 2500, 4096), LEAST_BYTES
        ):
            buffers = BUFFERS.model_copy(update={key: num_bytes})
            try:
                priced = blocking(loops, (*widths, 8), buffers).compute_cycles > 0
            except TargetError:
                priced = False
            assert fits_buffers(loops, widths, TARGET.compute, buffers) == priced
            found.add(priced)
        assert found == {True, False}


class TestPolicies:
    def test_widths_that_do_not_fit_are_named(self) -> None:
        policy = Policy(weights={"a": 2, "b": 2}, activations={"a": 2, "b": 8})
        (found,) = check_policy(two_layers(), policy, small_target(4095))
        assert (found.constraint, found.layer) == ("constraint_buffers", "b")
        assert (found.weights, found.activations) == ("b", "a")
        assert "weight and input bits (2, 2)" in found.message
        assert check_policy(two_layers(), policy, small_target(4096)) == ()

    def test_the_pairs_that_are_left_are_those_that_have_a_price(self) -> None:
        target = small_target(3072)
        legal = legal_space(SPACE, two_layers(), target)
        assert legal.weights == SPACE.weights
        assert legal.activations == {"a": (4, 8), "b": (8,)}
        fitting = {pair for pair, least in LEAST_BYTES.items() if least <= 3072}
        assert (8, 4) not in fitting
        assert legal_pairs(legal, two_layers(), target) == {("b", "a"): fitting}
        model = CostModel(two_layers(), target)
        for weights, inputs in LEAST_BYTES:
            policy = Policy(
                weights={"a": 8, "b": weights}, activations={"a": inputs, "b": 8}
            )
            if (weights, inputs) in fitting:
                assert model.totals(policy)["cycles"]
            else:
                with pytest.raises(TargetError, match="hold the smallest tiles"):
                    model.totals(policy)

    def test_widths_of_no_pair_leave_the_space(self) -> None:
        legal = legal_space(SPACE, two_layers(), small_target(1024))
        assert legal.activations == {"a": (8,), "b": (8,)}
        # The first layer is unrolled: its smallest tile has one column.
        assert legal.weights == {"a": (2, 4, 8), "b": (2,)}

    def test_without_any_pair_the_target_cannot_run(self) -> None:
        with pytest.raises(TargetError, match=r"layer 'b' with .*; enlarge them"):
            legal_space(SPACE, two_layers(), small_target(1023))

    def test_layers_that_are_not_cut_have_no_such_limit(self) -> None:
        artifact = digits_artifact()
        for name in ("mpic", "bitfusion_16x32"):
            target = load_target(name)
            policy = artifact.space.named("w2a2")
            assert check_policy(artifact.workload, policy, target) == ()


class TestRun:
    def test_other_policies_are_priced_and_searched(self, tmp_path: Path) -> None:
        artifact, path = digits_artifact(), tmp_path / "small.toml"
        text = TARGETS / "bitfusion_16x32.toml"
        path.write_text(
            text.read_text().replace("weight_bytes = 65_536", "weight_bytes = 1024")
        )
        policies = {name: artifact.space.named(name) for name in ("w8a8", "w2a2")}
        found = cost_matrix(artifact, policies, [load_target(path)])
        assert [entry.legal for entry in found.entries] == [True, False]
        outcome = run_all(tmp_path / "run", str(path), "mpic")
        assert not outcome.failures
        assert len(outcome.results) == 2

    def test_a_target_without_a_price_does_not_keep_others_from_theirs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        priced = PolicyCosts.__call__

        def fails_at_two_bits(costs: PolicyCosts, policy: Policy) -> Any:
            is_first = costs._model.target.name == "bitfusion_16x32"
            if is_first and policy.weights["conv"] == 2:
                raise TargetError("No price.")
            return priced(costs, policy)

        monkeypatch.setattr(PolicyCosts, "__call__", fails_at_two_bits)
        outcome = run_all(tmp_path / "run", "bitfusion_16x32", "mpic")
        assert outcome.failures == {
            "bitfusion_16x32": "Target 'bitfusion_16x32': No price."
        }
        assert [one.target for one in outcome.results] == ["mpic"]
        narrow = outcome.results[0].front[0]
        assert narrow.policy.weights["conv"] == 2
        text = (tmp_path / "run/matrix.md").read_text()
        assert f"- mpic/{narrow.name} on bitfusion_16x32: No price." in text
