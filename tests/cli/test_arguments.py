"""Words as people type them, in Hydra's grammar: flags anywhere, and any sign in the keys that hold paths."""

import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from sora.cli import console
from sora.cli import main as cli
from sora.cli.arguments import hydra_text, parsed, quoted
from tests.typed import Command

SIGNS = ("a b", "ä/ö ü", "数据", "a#b", "a&b", "a(b", "a)b", "it's", 'say "x"', "a=b", "a,b", "a;b", "a!b", "1e3")


def read(word: str) -> object:
    """What Hydra reads of an override."""
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["task=cb", "--cfg", "job", "x=1"], {"cfg": "job"}),
        (["task=cb", "--config-dir", ".", "x=1"], {"config_dir": "."}),
        (["task=cb", "x=1", "--dry-run"], {"dry_run": True}),
    ],
)
def test_flags_may_stand_anywhere(words: list[str], flags: dict[str, object]) -> None:
    found = vars(parsed(words)[1])
    assert flags.items() <= found.items()
    assert found["overrides"] == ["task=cb", "x=1", *(["hydra.sweeper.dry_run=true"] if "dry_run" in flags else [])]


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12))
def test_any_text_is_read_back_by_hydra(text: str) -> None:
    assert read(f"key={hydra_text(text)}") == text


@pytest.mark.parametrize("key", ["data.dir", "++backbone.weights", "paths.runs", "data.files.train", "data.label"])
def test_a_sign_in_a_path_is_read_as_it_was_typed(key: str) -> None:
    for sign in SIGNS:
        (word,) = quoted([f"{key}={sign}"])
        assert read(word) == sign
        assert quoted([word]) == [word], "a printed command, typed again, must mean the same"


def test_what_was_quoted_for_hydra_stays_what_it_was() -> None:
    assert read(*quoted(['paths.runs="a(1"'])) == "a(1"
    assert read(*quoted(["paths.runs='it\\'s'"])) == "it's"
    assert quoted(["data.dir=null", "data.dir=${oc.env:X,null}", "paths.runs=", "seed=[0,1]", "task.labels=[a b]"]) == [
        *["data.dir=null", "data.dir=${oc.env:X,null}", "paths.runs=", "seed=[0,1]", "task.labels=[a b]"]
    ]


def test_a_mapping_and_a_list_of_the_users_own_names() -> None:
    (word,) = quoted(["data.files={train: my data(1).csv, validation: a,b.csv, test: 'x.csv'}"])
    assert read(word) == {"train": "my data(1).csv", "validation": "a,b.csv", "test": "x.csv"}
    assert read(*quoted(["data.text=[größe,satz 2]"])) == ["größe", "satz 2"]


def test_the_comma_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert quoted(["-m", "backbone.weights=~/a#1,~/b"])[1] == f"backbone.weights='{tmp_path}/a#1',{tmp_path}/b"
    assert quoted(["experiment=x", "backbone.weights=a,b"])[1] == "backbone.weights=a,b"
    assert quoted(["experiment=x", "hydra.mode=RUN", "data.dir=a,b"])[2] == "data.dir='a,b'"
    assert quoted(["-m", "backbone.weights=glob(*)"])[1] == "backbone.weights=glob(*)"
    assert quoted(["-m", "paths.results=a,b"])[1] == "paths.results='a,b'", "no sweep has more than one"
    (tmp_path / "a,b").mkdir()
    assert quoted(["-m", f"data.dir={tmp_path}/a,b"])[1] == f"data.dir='{tmp_path}/a,b'"


def test_a_tilde_is_expanded_wherever_it_stands(
    typed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\npaths: {runs: ~/r, results: ~/s}\n", encoding="utf-8"
    )
    done = typed("experiment=mine", "hydra.mode=RUN", "data.dir=~/glue")
    assert done.status == 0, done.err
    run = done.packs[0][0]
    assert [run.paths.runs, run.paths.results, run.data.dir] == [f"{tmp_path}/home/{x}" for x in ("r", "s", "glue")]
    assert not (tmp_path / "~").exists()
    assert "~" not in done.commands[0]
    assert str(tmp_path) not in done.commands[0]


def test_a_home_that_is_not_known_makes_no_folder(
    typed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = typed("paths.runs=~nobody-of-that-name/r")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "there is no user nobody-of-that-name; write the whole path, or ./~nobody" in done.err

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    done = typed("task=cola")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "export HOME=<a folder that can be written>" in done.err
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    console.check_folders()
    assert not [each for each in tmp_path.iterdir() if each.name.startswith("~")]


def test_a_current_folder_that_is_gone_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "argv", ["run.py", "task=cola"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(
        "error: the current folder is gone (No such file or directory); cd to one"
    )
