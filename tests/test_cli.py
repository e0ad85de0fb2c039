"""The command `matar`: what is common to all that it can do."""

from __future__ import annotations

import ast
import inspect
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fixtures.paths import ROOT
from fixtures.programs import call, fails, flags_of, load

import matar_tf
from matar_tf import cli
from matar_tf.artifact import read_artifact
from matar_tf.commands import COMMANDS
from matar_tf.commands._program import in_flags
from matar_tf.run.settings import EXECUTORS, settings_of
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.metadata import read_metadata
from matar_tf.tflite.profiles import PROFILES

SHIPPED = str(ROOT / "recipes/artifacts/cifar10_resnet8.matar")
MATAR = [sys.executable, "-m", "matar_tf"]
# What a command may not load before it runs: no help needs arrays.
HEAVY = "numpy scipy sklearn pydantic deap matplotlib tensorflow ai_edge_litert"


def process(*words: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MATAR, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .tflite file, and samples of noise."""
    path = tmp_path_factory.mktemp("files")
    noise = np.random.default_rng(0).random((12, 32, 32, 3), np.float32)
    np.savez(path / "data.npz", x_test=noise, y_test=np.arange(12) % 10)
    words = (SHIPPED, "--policy=w4a8", f"--output={path / 'x.tflite'}")
    assert cli.main(["export", *words]) == 0
    return path


class TestPages:
    def test_all_commands_have_a_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main([]) == cli.main(["--help"]) == cli.main(["help"]) == 0
        page = capsys.readouterr().out
        assert page == 3 * page[: len(page) // 3]
        for name, text in COMMANDS.items():
            assert f"  {name:8s}  {text}\n" in page
        modules = {path.stem for path in (ROOT / "matar_tf/commands").glob("[a-z]*.py")}
        assert modules == set(COMMANDS)

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["--version"]) == 0
        assert capsys.readouterr().out == f"matar_tf {matar_tf.__version__}\n"

    @pytest.mark.parametrize("name", COMMANDS)
    def test_a_command_lists_its_flags(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main([name, "--help"]) == 0
        page = capsys.readouterr().out
        assert page.startswith(f"usage: matar {name}")
        for flag in load(name).COMMAND.flags():
            assert f"\n  --{flag}:" in page or f"\n  --[no]{flag}:" in page
        assert max(map(len, page.splitlines())) <= 88
        assert cli.main([name, "--helpfull", "--nonsense"]) == 0
        assert capsys.readouterr().out == page

    def test_what_a_page_says_of_a_flag(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["cost", "-h"]) == 0
        words = " ".join(capsys.readouterr().out.split())
        assert "usage: matar cost ARTIFACT [FLAGS]" in words
        assert (
            "--artifact: The artifact: a directory or a .matar file. (required" in words
        )
        assert "--policies: (or --policy) What is priced" in words
        assert "(default: w8a8,w4a4,w2a2)" in words
        assert (
            "--format: <text|md|csv|json>: Form of the table. (default: text)" in words
        )

    @pytest.mark.parametrize("name", COMMANDS)
    def test_help_loads_nothing_heavy(self, name: str) -> None:
        code = (
            "import sys; from matar_tf import cli; "
            f"assert cli.main([{name!r}, '--help']) == 0; "
            f"heavy = set({HEAVY.split()}) & set(sys.modules); "
            "assert not heavy, heavy"
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

    def test_help_is_there_at_once(self) -> None:
        """In a fifth of a second on a quiet machine; others may be at work here."""

        def seconds(command: list[str]) -> float:
            start = time.perf_counter()
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            return time.perf_counter() - start

        pairs = [
            (seconds([*MATAR, "search", "--help"]), seconds([sys.executable, "-c", ""]))
            for _ in range(5)
        ]
        extra = statistics.median(page - empty for page, empty in pairs)
        assert extra < 0.2


class TestCommandLines:
    def test_an_unknown_command_names_the_nearest(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["serch", "--resume"]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err == (
            "MatarError: Unknown command 'serch'. Did you mean 'search'?\n"
        )
        assert cli.main(["--resume"]) == 1
        assert "Known: 'compare'" in capsys.readouterr().err

    @pytest.mark.parametrize("name", COMMANDS)
    def test_an_unknown_flag(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main([name, "--nosuch=1"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("MatarError: Unknown command line flag 'nosuch'.")
        assert line.endswith(f"See `matar {name} --help`.")

    def test_a_misspelt_flag_names_the_nearest(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["search", "--artifcat=a"]) == 1
        assert "Did you mean: artifact?" in capsys.readouterr().err
        assert cli.main(["report", "--tagret=a"]) == 1
        assert "Did you mean: targets?" in capsys.readouterr().err

    def test_a_value_that_a_flag_cannot_have(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for flag in ("--seed=one", "--seed=-1", "--profile=int9", "--resume=maybe"):
            assert cli.main(["search", flag]) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert flag[2:].partition("=")[0] in line

    def test_what_is_required_is_named(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = fails(capsys, "search", "net.matar")
        assert "Expected --targets and --output, got none" in line
        line = fails(capsys, "inspect")
        assert "Expected --model (or a word by itself), got none" in line

    @pytest.mark.parametrize(
        ("name", "subject"),
        [
            ("train", "recipe"),
            ("package", "model"),
            ("search", "artifact"),
            ("export", "artifact"),
            ("evaluate", "model"),
            ("cost", "artifact"),
            ("report", "run"),
            ("inspect", "model"),
            ("compare", "artifact"),
        ],
    )
    def test_the_subject_is_a_flag_or_a_word(
        self, name: str, subject: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = load(name).COMMAND
        assert command.subject == subject
        others = {"targets": "mpic", "output": "new", "policies": "w8a8"}
        words = [
            f"--{flag}={value}"
            for flag, value in others.items()
            if flag in command.required
        ]
        lines = [
            fails(capsys, name, "nowhere", *words),
            fails(capsys, name, f"--{subject}=nowhere", *words),
            fails(capsys, name, *words[:1], "nowhere", *words[1:]),
        ]
        assert lines[0] == lines[1] == lines[2]
        assert "nowhere" in lines[0]
        line = fails(capsys, name, "nowhere", f"--{subject}=elsewhere", *words)
        assert f"Expected --{subject} or a word by itself" in line
        assert "'elsewhere' and 'nowhere'" in line
        line = fails(capsys, name, "nowhere", "elsewhere", *words)
        assert f"Expected one word beside flags, the --{subject}" in line

    def test_other_names_of_flags(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Also as two words, and a value may look like a flag's other name."""
        tables = []
        for words in (
            ("--policies=w8a8", "--targets=mpic"),
            ("--policy=w8a8", "--target=mpic"),
            ("-policy", "w8a8", "--target", "mpic"),
        ):
            assert cli.main(["cost", SHIPPED, *words]) == 0
            tables.append(capsys.readouterr().out)
        assert tables[0] == tables[1] == tables[2]
        line = fails(capsys, "cost", SHIPPED, "--policy=w8a8", "--policies=w4a4")
        assert "Expected --policy or --policies, which mean the same, got both" in line

    @pytest.mark.parametrize("names", ["w8a8,w4a4", ""])
    def test_an_export_is_of_one_policy_for_one_target_at_most(
        self, names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = (SHIPPED, f"--output={tmp_path / 'x.tflite'}")
        line = fails(capsys, "export", *words, f"--policies={names}")
        assert "Expected one name in --policies, got" in line
        words = (*words, "--policy=w8a8")
        line = fails(capsys, "export", *words, f"--targets={names}")
        assert "Expected one name in --targets, got" in line
        assert not list(tmp_path.iterdir())

    def test_words_that_no_flag_stands_for(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for words, message in (
            (("show",), "show NAME"),
            (("list", "mpic"), "got ['list', 'mpic']"),
            (("mpik",), "Did you mean 'mpic'"),
            (("mpic", "--list"), "flags only beside --list"),
        ):
            assert message in fails(capsys, "targets", *words)

    def test_what_is_on_record_can_be_typed_again(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).random((8, 32, 32, 3), np.float32)
        np.savez(tmp_path / "a b.npz", x_test=noise, y_test=np.arange(8))
        words = ("--targets=mpic", "--data=a b.npz", "--max_evaluations=4")
        words = ("search", SHIPPED, *words, "--compare=none", "--output=run")
        done = process(*words, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        record = json.loads((tmp_path / "run/run.json").read_text())
        assert record["command"] == (
            f"matar search {SHIPPED} --targets=mpic '--data=a b.npz' "
            "--max_evaluations=4 --compare=none --output=run"
        )

    def test_modules_of_the_user_are_found_in_the_present_folder(
        self, folder: Path, tmp_path: Path
    ) -> None:
        """The last: a file that bears the name of a package hides nothing."""
        (tmp_path / "numpy.py").write_text("raise SystemExit(3)")
        (tmp_path / "mine.py").write_text(
            "import numpy as np\n"
            "def samples():\n"
            f"    return dict(np.load({str(folder / 'data.npz')!r}))\n"
        )
        code = "import sys; sys.path[:] = sys.path[1:]; from matar_tf import cli; "
        code += "sys.exit(cli.main())"
        words = ("evaluate", str(folder / "x.tflite"), "--data=mine:samples")
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "12 samples of mine:samples" in done.stdout


class TestVocabulary:
    def test_flags_of_many_commands_are_defined_in_one_place(self) -> None:
        """Each flag's name stands in one call of a definition of absl's."""
        places: dict[str, set[str]] = {}
        for path in (ROOT / "matar_tf/commands").glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr.startswith("DEFINE_")
                ):
                    name = ast.literal_eval(node.args[0])
                    places.setdefault(name, set()).add(path.stem)
        assert all(len(one) == 1 for one in places.values())
        owners: dict[str, list[str]] = {}
        for name in COMMANDS:
            for flag in load(name).COMMAND.flags():
                owners.setdefault(flag, []).append(name)
        assert owners.keys() == places.keys()
        for flag, commands in owners.items():
            assert len(commands) == 1 or places[flag] == {"_flags"}, flag

    def test_flags_say_what_the_library_does(self) -> None:
        """Choices and defaults stand in both, since help loads nothing heavy."""
        found = flags_of("search")
        assert found["profile"].parser.enum_values == list(PROFILES)
        assert found["executor"].parser.enum_values == list(EXECUTORS)
        options = list(inspect.signature(settings_of).parameters.values())[1:]
        without_a_flag = {"progress", "command"}
        for one in options:
            if one.name not in without_a_flag:
                default = found[one.name].default
                plain = tuple(default) if isinstance(default, list) else default
                assert plain == (one.default or type(plain)()), one.name

    def test_all_that_take_samples_take_a_number_of_them(self) -> None:
        for name in COMMANDS:
            found = flags_of(name)
            assert ("data" in found) == ("num_samples" in found)
        assert {"data", "num_samples"} <= flags_of("export").keys()

    def test_the_number_of_samples(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, data = folder / "x.tflite", str(folder / "data.npz")
        assert call("evaluate", str(path), data=data, num_samples=5) == 0
        assert "5 samples of" in capsys.readouterr().out
        values = {"data": data, "num_samples": 7, "num_random": 0}
        assert call("compare", SHIPPED, **values) == 0
        assert "7 samples of" in capsys.readouterr().out
        values = {"data": data, "num_samples": 3, "policy": "w8a8"}
        output = tmp_path / "y.tflite"
        assert call("export", SHIPPED, output=str(output), **values) == 0
        assert read_metadata(output.read_bytes())["num_samples"] == 3
        values = {"data": data, "num_samples": 13}
        line = fails(capsys, "evaluate", str(path), **values)
        assert "Expected 1 to 12 evaluation samples" in line

    @pytest.mark.parametrize(
        ("values", "flag"),
        [
            ({"verify": True}, "--verify"),
            ({"compare": "keras"}, "--compare=keras"),
            ({"num_samples": 3}, "--num_samples"),
        ],
    )
    def test_export_takes_no_samples_that_were_not_named(
        self,
        values: dict[str, object],
        flag: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        given = {"policy": "w8a8", "output": str(tmp_path / "x.tflite"), **values}
        line = fails(capsys, "export", SHIPPED, **given)
        assert f"Expected --data beside {flag}, got none" in line
        assert not list(tmp_path.iterdir())


class TestWordsOfErrors:
    @pytest.mark.parametrize(
        ("sentence", "expected"),
        [
            ("pass resume=True to go on", "pass --resume to go on"),
            ("overwrite=True, or resume=False.", "--overwrite, or --noresume."),
            ("raise max_evaluations=", "raise max_evaluations="),
            ("raise seed=400", "raise --seed=400"),
            ("leave policy='w4a8' out", "leave --policy='w4a8' out"),
            # No flags of the command, parts of other words, and what is quoted.
            ("weights=True", "weights=True"),
            ("no_resume=True", "no_resume=True"),
            ("got 'seed=1', the path /seed=1", "got 'seed=1', the path /seed=1"),
            (
                "already --seed=1 and resume == True",
                "already --seed=1 and resume == True",
            ),
            ("resume=Truely", "--resume=Truely"),
            ("give seed=(224, 224, 3).", "give --seed=224x224x3."),
        ],
    )
    def test_arguments_become_flags(self, sentence: str, expected: str) -> None:
        assert in_flags(sentence, {"resume", "overwrite", "seed", "policy"}) == expected

    def test_an_error_of_the_library(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "net.matar").write_bytes(Path(SHIPPED).read_bytes())
        line = fails(capsys, "package", "m.h5", output=str(tmp_path / "net.matar"))
        assert line.endswith("choose another or pass --overwrite.")


class TestVerify:
    def test_an_artifact(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert call("verify", SHIPPED) == 0
        printed = capsys.readouterr().out
        assert "as their SHA-256 in the manifest says" in printed
        assert read_artifact(SHIPPED).digest() in printed

    def test_a_damaged_artifact(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        content = bytearray(Path(SHIPPED).read_bytes())
        place = content.index(b"network.json") + 200
        content[place] ^= 1
        (tmp_path / "net.matar").write_bytes(content)
        line = fails(capsys, "verify", artifact=str(tmp_path / "net.matar"))
        assert line.startswith("ArtifactError: ")

    def test_a_file_of_an_artifact(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = str(folder / "x.tflite")
        assert call("verify", path) == 0
        printed = capsys.readouterr().out
        assert "not compared with an artifact" in printed
        assert "2 to 8-bit weights" not in printed
        assert "profile          int8" in printed
        for words in ((path, f"--artifact={SHIPPED}"), (SHIPPED, path)):
            assert call("verify", *words) == 0
            assert "those that the artifact makes" in capsys.readouterr().out

    def test_a_file_that_was_altered(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        artifact = read_artifact(SHIPPED)
        builder = ModelBuilder(artifact)
        whole = (folder / "x.tflite").read_bytes()
        other = builder.build(artifact.space.named("w2a2"))
        for content, message in (
            (whole + b"\0", "exported by another version"),
            (whole.replace(b"int8", b"int9"), "profile"),
            (
                whole.replace(artifact.digest().encode(), b"0" * 64),
                "says that it is of",
            ),
            (b"", "Expected"),
        ):
            (tmp_path / "x.tflite").write_bytes(content)
            words = (SHIPPED, str(tmp_path / "x.tflite"))
            assert message in fails(capsys, "verify", *words)
        (tmp_path / "x.tflite").write_bytes(other)
        assert call("verify", SHIPPED, str(tmp_path / "x.tflite")) == 0

    def test_what_is_asked_for(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "got neither" in fails(capsys, "verify")
        line = fails(capsys, "verify", SHIPPED, artifact="a.matar")
        assert "Expected one --artifact, got 'a.matar' and" in line
        assert "where there is none" in fails(capsys, "verify", "no.tflite")


class TestStandardOutput:
    """What is printed arrives, or the status says that it has not."""

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line.replace("MATAR", f"{sys.executable} -m matar_tf")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("MATAR version > /dev/full", "No space left on device"),
            ("MATAR help > /dev/full", "No space left on device"),
            ("MATAR targets > /dev/full", "No space left on device"),
            ("MATAR targets >&-", "it is closed"),
        ],
    )
    def test_fails_in_one_sentence(self, line: str, reason: str) -> None:
        done = self.shell(line)
        assert done.returncode == 1
        (sentence,) = done.stderr.splitlines()
        assert sentence.startswith("OSError: Expected to print")
        assert f"got: {reason};" in sentence

    def test_an_error_before_keeps_its_sentence(self) -> None:
        done = self.shell("MATAR inspect none.tflite > /dev/full")
        assert done.returncode == 1
        (sentence,) = done.stderr.splitlines()
        assert sentence.startswith("ExportError: ")

    def test_whoever_stops_reading_ends_it_quietly(self) -> None:
        done = self.shell("{ sleep 0.1; MATAR targets; echo $? >&2; } | true")
        assert done.stderr == "141\n"
        done = self.shell("MATAR targets | head -1")
        assert done.stderr == ""
        assert len(done.stdout.splitlines()) == 1
