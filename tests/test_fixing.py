"""Entries that a search leaves alone."""

import pytest

from matar_tf.errors import PolicyError
from matar_tf.evolution import fix_entries
from matar_tf.space import PolicySpace

BITS = (2, 4, 8)
SPACE = PolicySpace(
    weights={"stem": BITS, "block_a": BITS, "block_b": (4, 8), "top": (8,)},
    activations={"stem": BITS, "block_a": BITS},
)


def test_a_name_a_pattern_and_several_widths():
    fixed = fix_entries(SPACE, ["weights:stem=8", "weights:block_*=4, 8"])
    assert dict(fixed.weights) == {
        "stem": (8,),
        "block_a": (4, 8),
        "block_b": (4, 8),
        "top": (8,),
    }
    assert fixed.activations == SPACE.activations
    only = fix_entries(SPACE, ["activations:*=2"])
    assert set(only.activations.values()) == {(2,)}
    assert only.weights == SPACE.weights


def test_later_texts_narrow_further():
    fixed = fix_entries(SPACE, ["weights:stem=4,8", "weights:stem=4"])
    assert fixed.weights["stem"] == (4,)
    with pytest.raises(PolicyError, match=r"out of \[4\]"):
        fix_entries(SPACE, ["weights:stem=4", "weights:stem=8"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stem=8", "such as 'weights:stem=8'"),
        ("weights:stem", "such as 'weights:stem=8'"),
        ("weights:stem=", "such as 'weights:stem=8'"),
        ("weights:stem=08", "such as 'weights:stem=8'"),
        ("weights:stem=٨", "such as 'weights:stem=8'"),
        ("biases:stem=8", "such as 'weights:stem=8'"),
        ("weights:stm=8", "Did you mean 'stem'"),
        ("activations:top=8", "that matches some, got 'top'"),
        ("weights:stem=3", r"out of \[2, 4, 8\] .* got \[3\]"),
        ("weights:block_*=2", r"out of \[4, 8\] for the weights entry 'block_b'"),
        ("weights:*=4,8", r"of the 4 entries .* have these widths: all but 'top'\."),
        ("weights:top=2", r"got \[2\] in 'weights:top=2'\."),
    ],
)
def test_refuses(text, message):
    with pytest.raises(PolicyError, match=message):
        fix_entries(SPACE, [text])
