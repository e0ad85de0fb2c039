"""Documents say what is there: commands, flags, names, paths, tables and Python."""

from __future__ import annotations

import importlib
import re

import pytest
from fixtures.documents import (
    commands,
    documents,
    fenced,
    missing_paths,
    problems_of,
    python_problems,
    spans,
    tables,
    unknown_flags,
)
from fixtures.programs import flags_of

from matar_tf.pricing import CONSTRAINTS, shape_limits
from matar_tf.pricing import constraints as _constraints
from matar_tf.targets import list_targets
from recipes.common import list_recipes, load_recipe

DOCUMENTS = documents()


def test_the_documents_are_found_with_their_commands() -> None:
    assert {"README.md", "CONTRIBUTING.md", "BUILD_NOTES.md"} <= DOCUMENTS.keys()
    assert "matar_tf/targets/VALIDATION.md" in DOCUMENTS
    assert len(commands(DOCUMENTS["BUILD_NOTES.md"])) > 15
    assert len(commands(DOCUMENTS["recipes/fsdd_dscnn.py"])) == 2
    every = [one for text in DOCUMENTS.values() for one in commands(text)]
    assert len(every) > 60


def test_a_command_may_go_on_in_the_next_line() -> None:
    text = "As `python tools/train.py --recipe=a\n--seed=1`.\n\n```\npython "
    text += "tools/cost.py --artifact=a \\\n  --layers  # each\nmake test\n```\n"
    assert commands(text) == [
        "python tools/cost.py --artifact=a    --layers  # each",
        "python tools/train.py --recipe=a --seed=1",
    ]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_can_be_called_so(name: str) -> None:
    found = {one: problems_of(one) for one in commands(DOCUMENTS[name])}
    assert {one: problems for one, problems in found.items() if problems} == {}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_flag_path_and_link_is_there(name: str) -> None:
    assert unknown_flags(DOCUMENTS[name]) == []
    assert missing_paths(name, DOCUMENTS[name]) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_recipe_with_a_variant_can_be_loaded(name: str) -> None:
    recipes = "|".join(list_recipes())
    for spec in re.findall(rf"\b(?:{recipes})(?::[a-z]\w*)+", DOCUMENTS[name]):
        assert load_recipe(spec).name == spec


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("python tools/trane.py --seed=1", "no program tools/trane.py"),
        ("python tools/train.py --sede=1", "train.py has no --sede"),
        ("python tools/train.py --seed=one", "--seed=one"),
        ("python tools/train.py --recipe=digits_resnet9", "digits_resnet9"),
        ("python tools/train.py --recipe=digits_resnet8:slow", "slow"),
        ("python tools/train.py --float=recipes/artifacts/no.h5", "no.h5"),
        ("python tools/train.py digits", "digits"),
        ("python tools/search.py --targets=mpic,mpik", "no target mpik"),
        ("python tools/export.py --profile=packed", "should be one of"),
        ("python tools/report.py --format=pdf", "--format=pdf"),
        ("python tools/benchmark.py serch", "no suite serch"),
        ("tools/benchmark.py memory --artifact=a --seed=1", "memory has no --seed"),
        ("show_target.py mpik", "no target mpik"),
        ("python tools/search.py --noresum", "search.py has no --noresum"),
        ("python tools/ablate.py --epochs=3", "no program tools/ablate.py"),
        ("tools/benchmarks/search.py --seed=1", "no program tools/benchmarks/search"),
        ("matar serch --resume", "no command matar serch"),
        ("matar search --noresum", "matar search has no --noresum"),
        ("python -m matar_tf search --seed=one", "--seed=one"),
        ("matar targets mpik", "no target mpik"),
        ("matar report runs/a --run=c", "matar report takes no runs/a"),
    ],
)
def test_a_wrong_command_is_found(command: str, problem: str) -> None:
    (found,) = problems_of(command)
    assert problem in found
    text = f"Call `{command}`, or\n\n```\n{command}\n```\n"
    assert commands(text) == [command] * 2


@pytest.mark.parametrize(
    "command",
    [
        "python tools/search.py --targets=mpic,my_npu.toml --noresume",
        "python tools/report.py --run=runs/a --format=svg --target=mpic > front.svg",
        "python tools/train.py --recipe=digits_resnet8:quick:scratch --output=a",
        "python tools/benchmark.py memory --artifact=ART --num_samples=2000",
        "show_target.py NAME",
        "tools/search.py --help",
        "tools/benchmarks/bars.py",
        "python tools/benchmarks/ablate.py --epochs=3",
        "matar search runs/net --targets=mpic --noresume",
        "matar export runs/net --policy=w4a8 --policies=w4a8 --output=a.tflite",
        "matar targets show NAME",
        "matar verify a.tflite --artifact=runs/net",
        "python -m matar_tf report runs/a --format=md",
    ],
)
def test_a_right_command_is_left_alone(command: str) -> None:
    assert problems_of(command) == []


def test_wrong_flags_paths_and_links_are_found() -> None:
    text = (
        "`--max=a=1` `--maximum` `keras/rewrite/layout.py` `keras/lay.py` `tests/no.py`"
    )
    text += " `layout.py` `lay.py` [a](README.md) [b](READYOU.md) [c](https://x.y/z)"
    assert unknown_flags(text) == ["maximum"]
    wrong = ["READYOU.md", "keras/lay.py", "tests/no.py", "lay.py"]
    assert missing_paths("README.md", text) == wrong


def test_the_table_of_search_flags() -> None:
    found = tables("| flag | meaning |")
    assert found
    for row in (row for table in found for row in table):
        flags = re.findall(r"--(\w+)", " ".join(spans(row[0])))
        assert flags
        for name in (*flags, *re.findall(r"--(\w+)", " ".join(spans(row[1])))):
            assert name in flags_of("search")


def test_every_target_has_a_row() -> None:
    (table,) = tables("| my hardware | target |")
    named = [name for row in table for name in spans(row[1])]
    assert sorted(named) == sorted(list_targets())


def test_every_constraint_has_a_sentence() -> None:
    known = {**vars(_constraints), **vars(shape_limits)}
    functions = {name for name in known if name.startswith("constraint_")}
    assert functions == set(CONSTRAINTS)
    for name, sentence in CONSTRAINTS.items():
        function = known[name]
        assert function.__doc__.startswith(sentence)
        assert len(sentence.split()) > 3
        assert sentence.endswith(".")


class TestPython:
    @pytest.mark.parametrize("name", [one for one in DOCUMENTS if one.endswith(".md")])
    def test_blocks_name_what_there_is(self, name: str) -> None:
        blocks = [code for kind, code in fenced(DOCUMENTS[name]) if kind == "python"]
        assert blocks or name != "README.md"
        assert python_problems(blocks) == []

    @pytest.mark.parametrize("name", [one for one in DOCUMENTS if one.endswith(".md")])
    def test_names_in_sentences_are_there(self, name: str) -> None:
        for span in spans(DOCUMENTS[name]):
            for dotted in re.findall(r"\bmatar_tf(?:\.[A-Za-z_]\w*)+", span):
                *modules, last = dotted.split(".")
                module = importlib.import_module(".".join(modules))
                if not hasattr(module, last):
                    importlib.import_module(dotted)

    @pytest.mark.parametrize(
        ("code", "problem"),
        [
            ("matar_tf.quantise_model(m)", "no matar_tf.quantise_model"),
            ("matar_tf.keras.train_many(m)", "no matar_tf.keras.train_many"),
            ("matar_tf.PolicyRandomizer(sed=0)", "has no sed"),
            ("tfmot.quantize_aply(m)", "no tfmot.quantize_aply"),
        ],
    )
    def test_a_wrong_name_is_found(self, code: str, problem: str) -> None:
        imports = "import matar_tf.keras\nfrom tensorflow_model_optimization."
        imports += "quantization import keras as tfmot\n"
        (found,) = python_problems([imports, code])
        assert problem in found
        assert python_problems([imports, "x.y.z = matar_tf.quantize_model(m)"]) == []

    def test_code_has_to_compile(self) -> None:
        with pytest.raises(SyntaxError):
            python_problems(["import matar_tf as"])
