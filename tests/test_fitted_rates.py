"""Rates of devices from times of networks: devices that are made up, with noise."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from matar_tf.predictor import rank_correlation
from matar_tf.pricing.fitting import (
    Steps,
    Term,
    choose_networks,
    count_terms,
    fit_rates,
    predict_each,
)
from matar_tf.tflite.drawn_networks import Limits, draw_networks
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload, Workload

# Nanoseconds of a small core at 100 MHz: nothing like the machine that runs tests.
_COSTS = {
    "network": 50_000.0,
    "layer": 8_000.0,
    "macs": 15.0,
    "inputs": 10.0,
    "outputs": 120.0,
    "weights": 20.0,
    "elems": 90.0,
}
_COST_OF_KIND = {
    Term(OpKind.DEPTHWISE_CONV, "macs"): 60.0,
    Term(OpKind.SOFTMAX, "elems"): 3_000.0,
    Term(OpKind.RESHAPE, "elems"): 25.0,
}
_STEPS = Steps(inputs=4, outputs=1, depthwise=1)


@functools.cache
def networks() -> list[Workload]:
    limits = Limits(weight_bytes=1 << 16, tensor_bytes=1 << 14)
    return [one.workload for one in draw_networks(120, seed=3, limits=limits)]


def cost(term: Term) -> float:
    return _COST_OF_KIND.get(term, _COSTS[term.what])


def time_of(workload: Workload) -> float:
    counts = count_terms(workload, _STEPS)
    return sum(count * cost(term) for term, count in counts.items())


def one_conv(inputs: int, outputs: int) -> Workload:
    layer = LayerWorkload(
        name="conv",
        kind=OpKind.CONV,
        inputs=("x",),
        output="y",
        weights="conv",
        macs=16 * 9 * inputs * outputs,
        weight_elems=9 * inputs * outputs,
        kernel_size=(3, 3),
    )
    tensors = {
        "x": TensorWorkload(name="x", shape=(4, 4, inputs), activation=None),
        "y": TensorWorkload(name="y", shape=(4, 4, outputs), activation=None),
    }
    return Workload(layers=(layer,), tensors=tensors, inputs=("x",), outputs=("y",))


class TestCountTerms:
    def test_by_hand(self):
        found = count_terms(one_conv(3, 10), Steps())
        assert found == {
            Term(None, "network"): 1,
            Term(None, "layer"): 1,
            Term(OpKind.CONV, "macs"): 16 * 9 * 30,
            Term(OpKind.CONV, "inputs"): 48,
            Term(OpKind.CONV, "outputs"): 160,
            Term(OpKind.CONV, "weights"): 270,
        }

    @pytest.mark.parametrize(
        ("inputs", "outputs", "filled"),
        [(3, 10, 8 * 16), (8, 16, 8 * 16), (9, 17, 16 * 32)],
    )
    def test_channels_are_filled_up_to_whole_steps(self, inputs, outputs, filled):
        found = count_terms(one_conv(inputs, outputs), Steps(inputs=8, outputs=16))
        assert found[Term(OpKind.CONV, "macs")] == pytest.approx(16 * 9 * filled)


class TestFitRates:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_times_of_other_networks_follow_from_twenty(self, seed):
        rng = np.random.default_rng(seed)
        chosen = choose_networks(networks(), 20)
        times = [
            time_of(networks()[one]) * math.exp(rng.normal(0.0, 0.03)) for one in chosen
        ]
        rates = fit_rates([networks()[one] for one in chosen], times)
        others = [one for index, one in enumerate(networks()) if index not in chosen]
        found = np.array([rates.predict(one) for one in others])
        expected = np.array([time_of(one) for one in others])
        assert rank_correlation(found, expected) >= 0.97
        assert np.mean(np.abs(found / expected - 1.0) <= 0.2) >= 0.8
        # What the networks are mostly of is known well, and as well as is said.
        macs = Term(OpKind.CONV, "macs")
        assert rates.costs[macs] == pytest.approx(cost(macs), rel=0.5)
        assert rates.errors[OpKind.CONV] < 0.2

    def test_exact_times_give_the_steps(self):
        rates = fit_rates(networks(), [time_of(one) for one in networks()])
        assert rates.steps == _STEPS
        softmax = Term(OpKind.SOFTMAX, "elems")
        assert rates.costs[softmax] == pytest.approx(3_000.0, rel=0.1)

    def test_no_cost_is_zero(self):
        rates = fit_rates([one_conv(8, 8)], [1.0])
        assert all(value > 0 for value in rates.costs.values())
        assert rates.errors[OpKind.CONV] > 0.1

    def test_of_what_is_not_measured_more_is_uncertain(self):
        few, many = (
            fit_rates(
                networks()[:number],
                [time_of(one) for one in networks()[:number]],
                steps=_STEPS,
            )
            for number in (15, 120)
        )
        assert all(many.errors[kind] < few.errors[kind] for kind in few.errors)


class TestPredictEach:
    def test_a_kind_that_no_other_has_is_told_by_none(self):
        conv = [one_conv(8, 8), one_conv(16, 8), one_conv(16, 16)]
        softmax = next(
            one
            for one in networks()
            if any(layer.kind is OpKind.SOFTMAX for layer in one.layers)
        )
        found = predict_each([*conv, softmax], [1.0, 2.0, 4.0, 9.0], Steps())
        assert all(0.5 < one < 8.0 for one in found[:3])
        assert math.isnan(found[3])


class TestChooseNetworks:
    def test_they_have_all_kinds(self):
        chosen = choose_networks(networks(), 20)
        assert len(set(chosen)) == 20
        kinds = {layer.kind for one in chosen for layer in networks()[one].layers}
        assert kinds == {*OpKind} - {OpKind.FLOAT}

    def test_the_first_are_taken_in_any_case(self):
        assert choose_networks(networks(), 10, first=[7, 3])[:2] == [7, 3]

    def test_they_tell_more_than_the_first_twenty(self):
        def typical_error(chosen: list[int]) -> float:
            some = [networks()[one] for one in chosen]
            rates = fit_rates(some, [time_of(one) for one in some], steps=_STEPS)
            errors = [
                abs(
                    sum(
                        count * rates.costs.get(term, 0.0)
                        for term, count in count_terms(one, _STEPS).items()
                    )
                    / time_of(one)
                    - 1.0
                )
                for one in networks()
            ]
            return float(np.quantile(errors, 0.8))

        assert typical_error(choose_networks(networks(), 20)) < typical_error(
            [*range(20)]
        )

    def test_no_more_than_there_are(self):
        assert sorted(choose_networks(networks()[:4], 9)) == [0, 1, 2, 3]
