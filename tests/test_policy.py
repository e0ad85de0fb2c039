from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest

from matar_tf.errors import PolicyError
from matar_tf.policy import Policy, parse_uniform_name
from matar_tf.space import PolicySpace

SPACE = PolicySpace(
    weights={"first": (8,), "middle": (2, 4, 8)},
    activations={"input": (8,), "relu": (2, 3, 8)},
)


class TestUniformNames:
    @pytest.mark.parametrize("name", ["w1a8", "w9a8", "w4a1", "w4a9"])
    def test_widths_outside_two_to_eight_are_refused(self, name: str) -> None:
        with pytest.raises(PolicyError, match=r"2\.\.8"):
            parse_uniform_name(name)

    @pytest.mark.parametrize(
        "name",
        ["a8w4", "w4", "w4a8x", "", "W4A8", "w04a4", "w4a04", "w٤a4", "w4a4\n"],
    )
    def test_other_forms_are_refused(self, name: str) -> None:
        with pytest.raises(PolicyError, match="w4a8"):
            parse_uniform_name(name)

    def test_both_ends_are_read(self) -> None:
        assert parse_uniform_name("w2a8") == (2, 8)

    def test_a_space_names_the_widths_that_its_free_entries_share(self) -> None:
        assert SPACE.uniform_names() == ("w8a8", "w2a2")
        assert SPACE.uniform_names(mixed=True)[:3] == ("w8a8", "w8a3", "w8a2")

    def test_fixed_weights_of_several_widths_count_as_8_beside_a_choice(self) -> None:
        space = PolicySpace(
            weights={"first": (4,), "second": (2,)}, activations={"relu": (4, 8)}
        )
        assert space.uniform_names(mixed=True) == ("w8a8", "w8a4")
        assert dict(space.named("w8a4").weights) == {"first": 4, "second": 2}

    @pytest.mark.parametrize(
        ("widths", "names"),
        [((8, 8), ("w8a8",)), ((8, 2), ("w2a8",)), ((2, 2), ("w2a8",)), ((2, 4), ())],
    )
    def test_a_space_of_one_policy_names_what_it_has(
        self, widths: tuple[int, int], names: tuple[str, ...]
    ) -> None:
        first, second = widths
        space = PolicySpace(
            weights={"first": (first,), "second": (second,)},
            activations={"relu": (8,)},
        )
        assert space.uniform_names(mixed=True) == names
        for name in names:
            assert space.named(name) == space.widest()


class TestPolicy:
    @pytest.mark.parametrize("kind", [np.int64, np.uint8])
    def test_integers_of_numpy_are_bits(self, kind: Any) -> None:
        # json.dumps and the type of an entry tell them from Python's.
        policy = Policy(weights={"a": kind(4)}, activations={"b": 2})
        assert type(policy.weights["a"]) is int
        assert policy == Policy(weights={"a": 4}, activations={"b": 2})
        assert Policy.from_json(json.loads(policy.to_canonical_json())) == policy
        space = PolicySpace(weights={"a": (kind(2), kind(4))}, activations={"b": (2,)})
        assert [type(one) for one in space.weights["a"]] == [int, int]
        assert json.loads(json.dumps(space.to_json()))["weights"] == {"a": [2, 4]}
        assert space.uniform(kind(4), kind(2)) == policy

    @pytest.mark.parametrize(
        "bits", [1, 9, 4.0, "4", True, None, np.int64(9), np.float32(4), np.bool_(True)]
    )
    def test_only_integers_from_two_to_eight_are_bits(self, bits: object) -> None:
        with pytest.raises(PolicyError, match="'relu'"):
            Policy(weights={}, activations={"relu": bits})  # type: ignore[dict-item]

    def test_json_round_trip(self) -> None:
        policy = SPACE.named("w2a2")
        assert Policy.from_json(policy.to_json()) == policy

    def test_pickle_round_trip(self) -> None:
        policy = SPACE.named("w2a2")
        assert pickle.loads(pickle.dumps(policy)) == policy
        assert pickle.loads(pickle.dumps(SPACE)) == SPACE

    def test_equal_policies_have_equal_hashes_and_digests(self) -> None:
        one = Policy(weights={"a": 2, "b": 3}, activations={})
        other = Policy(weights={"b": 3, "a": 2}, activations={})
        assert one == other
        assert hash(one) == hash(other)
        assert one.digest() == other.digest()

    def test_entries_cannot_be_changed(self) -> None:
        with pytest.raises(TypeError):
            SPACE.named("w2a2").weights["middle"] = 3  # type: ignore[index]

    @pytest.mark.parametrize(
        ("document", "message"),
        [
            ([], "JSON object"),
            ({"schema_version": 2, "weights": {}, "activations": {}}, "schema_version"),
            ({"schema_version": 1, "weights": {}}, "'activations'"),
            (
                {"schema_version": 1, "weights": {}, "activations": {}, "weigths": {}},
                "Did you mean 'weights'",
            ),
        ],
    )
    def test_malformed_documents_are_refused(
        self, document: object, message: str
    ) -> None:
        with pytest.raises(PolicyError, match=message):
            Policy.from_json(document)


class TestPolicySpace:
    def test_counts_its_policies(self) -> None:
        assert SPACE.num_policies == 1 * 3 * 1 * 3

    @pytest.mark.parametrize(
        ("num_entries", "text"),
        # The logarithm of 7 is 0.845098; floats end at 1.8e308.
        [
            (0, "1"),
            (3, "343"),
            (4, "2,401"),
            (7, "823,543"),
            (8, "5.76e+06"),
            (354, "1.46e+299"),
            (355, "1.02e+300"),
            (400, "1.09e+338"),
        ],
    )
    def test_its_size_is_printed(self, num_entries, text):
        weights = {f"layer{number}": range(2, 9) for number in range(num_entries)}
        assert PolicySpace(weights=weights, activations={}).size_text() == text

    def test_fixed_entries_keep_their_width_in_uniform_policies(self) -> None:
        policy = SPACE.uniform(4, 3)
        assert dict(policy.weights) == {"first": 8, "middle": 4}
        assert dict(policy.activations) == {"input": 8, "relu": 3}

    def test_a_width_that_a_free_entry_lacks_is_refused(self) -> None:
        with pytest.raises(PolicyError, match="'middle'"):
            SPACE.named("w3a3")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"weights": {"first": 8, "middel": 4}}, "Did you mean 'middle'"),
            ({"weights": {"first": 8}}, "no weights entry for 'middle'"),
            ({"weights": {"first": 4, "middle": 4}}, r"\[8\]"),
            ({"activations": {"input": 8, "relu": 4}}, r"\[2, 3, 8\]"),
        ],
    )
    def test_policies_that_do_not_fit_are_refused(
        self, change: dict[str, dict[str, int]], message: str
    ) -> None:
        fields = {
            "weights": {"first": 8, "middle": 4},
            "activations": {"input": 8, "relu": 3},
        }
        SPACE.validate(Policy(**fields))
        with pytest.raises(PolicyError, match=message):
            SPACE.validate(Policy(**{**fields, **change}))

    @pytest.mark.parametrize("widths", [(), (4, 2), (2, 2), (1, 2), (8, 9)])
    def test_widths_ascend_within_two_to_eight(self, widths: object) -> None:
        with pytest.raises(PolicyError, match="'a'"):
            PolicySpace(weights={"a": widths}, activations={})  # type: ignore[dict-item]

    @pytest.mark.parametrize("widths", ["48", 4, None])
    def test_widths_are_a_list(self, widths: object) -> None:
        with pytest.raises(PolicyError, match="list of widths for the weights entry"):
            PolicySpace(weights={"a": widths}, activations={})  # type: ignore[dict-item]

    def test_equal_spaces_have_equal_hashes(self) -> None:
        other = PolicySpace(
            weights=dict(reversed(SPACE.weights.items())),
            activations=dict(reversed(SPACE.activations.items())),
        )
        assert other == SPACE
        assert hash(other) == hash(SPACE)

    def test_only_leaves_the_widths_of_one_policy(self) -> None:
        policy = SPACE.uniform(4, 3)
        alone = SPACE.only(policy)
        assert alone.weights == {"first": (8,), "middle": (4,)}
        assert alone.activations == {"input": (8,), "relu": (3,)}
        with pytest.raises(PolicyError, match=r"\[2, 3, 8\]"):
            SPACE.only(
                Policy(weights=policy.weights, activations={"input": 8, "relu": 4})
            )

    def test_with_choices_changes_one_entry(self) -> None:
        freed = SPACE.with_choices(weights={"first": (4, 8)})
        assert freed.weights["first"] == (4, 8)
        assert freed.activations == SPACE.activations
        with pytest.raises(PolicyError, match="Did you mean 'first'"):
            SPACE.with_choices(weights={"frist": (4, 8)})

    def test_json_round_trip(self) -> None:
        assert PolicySpace.from_json(SPACE.to_json()) == SPACE
