"""What a target takes of each kind: by table, as its entries of ops say it."""

from __future__ import annotations

import itertools

import pytest

from matar_tf.policy import ALL_BITS, WIDE_BITS
from matar_tf.targets import Target, list_targets, load_target
from matar_tf.workload import FLOAT_BITS, OpKind

WEIGHTS = (None, *ALL_BITS)
WIDTHS = (*ALL_BITS, WIDE_BITS, FLOAT_BITS)


def said(target: Target, kind: OpKind, weight_bits: int | None, bits: int) -> bool:
    """Whether some entry lists the kind and both widths, read as the file has them.

    What stays in float may lack a kernel, and read floats.
    """
    document = target.model_dump()
    more = kind is OpKind.FLOAT
    return any(
        kind in entry["kinds"]
        and (bits in entry["activation_bits"] or (more and bits == FLOAT_BITS))
        and (
            weight_bits in (entry.get("weight_bits") or (None,))
            or (more and weight_bits is None)
        )
        for entry in document["ops"]
    )


@pytest.mark.parametrize("name", list_targets())
def test_tables_say_what_the_entries_say(name: str) -> None:
    target = load_target(name)
    for kind in OpKind:
        pairs = {
            pair
            for pair in itertools.product(WEIGHTS, WIDTHS)
            if said(target, kind, *pair)
        }
        taken = {
            pair
            for pair in itertools.product(WEIGHTS, WIDTHS)
            if target.takes(kind, *pair)
        }
        assert taken == pairs
        assert target.weight_bits_for(kind) == {one for one, _ in pairs} - {None}
        assert target.activation_bits_for(kind) == {one for _, one in pairs}
        assert bool(target.ops_for(kind)) == bool(pairs)


def test_a_changed_copy_has_tables_of_its_own() -> None:
    target = load_target("mpic")
    assert target.takes(OpKind.CONV, 2, 2)
    narrow = tuple(
        entry.model_copy(update={"activation_bits": (8,)}) for entry in target.ops
    )
    for deep in (False, True):
        copy = target.model_copy(update={"ops": narrow}, deep=deep)
        assert not copy.takes(OpKind.CONV, 2, 2)
        assert copy.activation_bits == {8}
        assert copy.ops_for(OpKind.CONV)[0].activation_bits == (8,)
    assert target.takes(OpKind.CONV, 2, 2)
    assert target.activation_bits == {2, 4, 8}
    assert target.model_copy() == target
