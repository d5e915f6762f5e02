"""The dispatcher, what every command answers, and how users' mistakes are reported."""

import errno
import importlib
import json
import os
import re
import runpy
import subprocess
import sys

import pytest

import knee_jax
from knee_jax import cli, papers
from knee_jax.cli import COMMANDS, config_argument, process, run, saved_config
from knee_jax.cli import convert as convert_command
from knee_jax.errors import UserError
from knee_jax.inference.conversion import MODELS
from tests.commands import REPOSITORY, run_here

SCRIPT = """
import os, signal, sys
from absl import flags
from ml_collections import config_flags
from knee_jax.cli import run
from knee_jax.errors import UserError

def define_flags():
    flags.DEFINE_enum("do", "run", ["run", "err", "bug", "stop"], "")
    config_flags.DEFINE_config_file("config")

def main(words):
    what = flags.FLAGS.do
    if what == "err":
        raise UserError("film.dcm: no spacing;\\nmeasure it")
    if what == "bug":
        raise RuntimeError("a fault of ours")
    if what == "stop":
        os.kill(os.getpid(), signal.SIGINT)
    print("learning rate", flags.FLAGS.config.data.rate)

if __name__ == "__main__":
    sys.modules["knee_jax.cli.script"] = sys.modules["__main__"]
    run.run_command("script")
"""
CONFIG = """
from ml_collections import ConfigDict
from knee_jax.errors import UserError

def get_config(variant=""):
    if variant:
        raise UserError(f"no variant {variant!r}; there is: none")
    return ConfigDict({"data": {"rate": 0.5}})
"""


@pytest.fixture
def command(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "config.py").write_text(CONFIG)

    def run(*arguments):
        words = [sys.executable, "script.py", "--config=config.py", *arguments]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return run


def test_all_is_well(command):
    done = command("--config.data.rate=0.25")
    assert (done.returncode, done.stdout) == (0, "learning rate 0.25\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--do=err"], "film.dcm: no spacing; measure it"),
        (["--dew=err"], "'dew'"),
        (["--do=nothing"], "--do=nothing"),
        (["--config.data.rat=1"], "no field 'rat'"),
        (["--config.dada.rate=1"], "no field 'dada'"),
        (["--config.data.rate=much"], "'much'"),
        (["--config=config.py:tiny"], "no variant 'tiny'; there is: none"),
        (["--config=none.py"], "none.py: no such file"),
        (["word"], "'word'"),
    ],
)
def test_one_line_and_status_1(command, arguments, message):
    done = command(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not done.stdout


def test_interrupt(command):
    done = command("--do=stop")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_fault_of_ours_keeps_its_traceback(command):
    done = command("--do=bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk(code):
    assert "disk is full" in run.line_for_user(OSError(code, os.strerror(code), "a.txt"))
    # As ArrayRecord and Orbax report it.
    wrapped = ValueError(f"RESOURCE_EXHAUSTED: write() failed: {os.strerror(code)} [{code}]")
    assert "disk is full" in run.line_for_user(wrapped)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EACCES])
def test_places_that_cannot_be_used(code):
    error = OSError(code, os.strerror(code), "data")
    assert run.line_for_user(error) == f"data: {os.strerror(code).lower()}"


def test_what_lies_beneath():
    error = RuntimeError("while writing the split")
    error.__cause__ = UserError("table.txt: a column is missing")
    assert run.line_for_user(error) == "table.txt: a column is missing"
    assert run.line_for_user(RuntimeError("a fault of ours")) is None


def test_a_checkout_that_is_not_installed_is_named():
    error = ModuleNotFoundError("No module named 'knee_jax.configs'", name="knee_jax.configs")
    assert "knee_jax is not installed: run `pip install -e .`" in run.line_for_user(error)


def test_no_module_can_be_imported_twice():
    assert list(knee_jax.__path__) == [str(REPOSITORY / "knee_jax")]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_names_every_command(arguments):
    done = run_here("knee_jax", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^  (\S+) {2}", done.stdout, re.M) == list(COMMANDS)


@pytest.mark.parametrize("arguments", [["--version"], ["train", "--version"]])
def test_the_version_is_printed(arguments):
    done = run_here("knee_jax", *arguments)
    assert (done.returncode, done.stdout) == (0, f"knee_jax {knee_jax.__version__}\n")


@pytest.mark.parametrize(
    ("word", "message"),
    [("trian", "did you mean 'train'?"), ("xyzzy", "choose train, demo, prepare, ")],
)
def test_an_unknown_command_is_named_with_the_nearest(word, message):
    done = run_here("knee_jax", word, "--config=kpn:demo")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: there is no command '{word}'")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


FLAGS = {
    "train": "config workdir data_dir mode distributed coordinator num_processes process_id",
    "demo": "config workdir data_dir mode",
    "prepare": "dataset manual_dir data_dir workers expect file_timeout beam_runner beam_options "
    "images labels name columns infer encoding cohort size landmarks roi",
    "reproduce": "table budget out data_dir rows seed change study dry_run",
    "predict": "out model side spacing landmarks roi dicom_sr shard workers",
    "serve": "model host port token_file workers upload_mb spool_mb files jobs jobs_of_client "
    "upload_seconds idle_seconds read_seconds answer_seconds keep_mb keep_minutes",
    "locate": "out model side size workers",
    "listen": "spool send_to title host port callers most_mb model workers",
    "evaluate": "data data_dir predictions encoding training_knees out",
    "finetune": "data workdir data_dir targets seed epochs",
    "export": "out half card data_dir",
    "dry-run": "config topology inference out",
    "convert": "weights out model layout width heads",
    "compare": "part page out resamples",
    "runs": "sort page",
    "coherence": "index out seed",
    "mislabelled": "out part target data_dir shown plant",
    "read": "study grades repeats seed take out predictions host port token_file workers",
    "readers": "predictions readers out",
    "phantom": "out study release landmarks mri clutter subjects visit rows seed workers",
    "list": "",
    "completion": "",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_whole(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in ([name, "--help"], ["help", name], [name, "--seed=none", "-h"]):
        done = run_here("knee_jax", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        listed = re.findall(r"^  --(?:\[no\])?(\w+): \S", done.stdout, re.M)
        assert set(listed) >= set(FLAGS[name].split())
        assert "helpfull" not in done.stdout
        opening = run.module_of(name).__doc__.splitlines()[0]
        assert opening in done.stdout


def test_answers_import_nothing_heavy(tmp_path):
    """In one process of its own, as no other test leaves it."""
    heavy = ("jax", "tensorflow_datasets", "torch", "sklearn", "matplotlib")
    code = f"""
import sys
from absl import app, flags
from knee_jax.cli import COMMANDS, main
def heavy():
    return [name for name in {heavy} if name in sys.modules]
for arguments in (["--help"], ["--version"], ["list", "configs"], ["list", "tables"],
                  ["completion", "bash"], *([c, "--help"] for c in COMMANDS)):
    before = set(flags.FLAGS)
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, arguments
    assert not heavy(), (arguments, heavy())
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_reader_that_leaves_early_is_no_error():
    line = f"{sys.executable} -m knee_jax list variants | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "joint_space_width:demo\n", "")


@pytest.mark.parametrize("module", ["main", "prepare", "reproduce", "convert", "phantom"])
def test_modules_are_doors_to_the_commands(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--version"])
    called = []
    monkeypatch.setattr(run, "run_command", lambda name, words: called.append((name, words)))
    monkeypatch.setattr(process, "with_large_pages", lambda: None)
    monkeypatch.setattr(cli, "_Signals", lambda: None)
    runpy.run_module(f"knee_jax.{module}", run_name="__main__", alter_sys=False)
    assert called == [("train" if module == "main" else module, ["--version"])]


@pytest.mark.parametrize(
    ("kind", "some"),
    [
        ("configs", {"kl", "kpn", "oarsi"}),
        ("variants", {"kpn:demo", "siamese_gap:resnet18", "oarsi:gwap"}),
        ("models", {"resnet", "keypoint_pooling", "vgg"}),
        ("datasets", {"oai_xray", "phantom_mri", "kneekl224"}),
        ("tables", set(papers.names())),
    ],
)
def test_names_are_listed(kind, some):
    done = run_here("knee_jax", "list", kind)
    assert done.returncode == 0, done.stderr
    listed = done.stdout.splitlines()
    assert set(listed) >= some
    assert listed == list(dict.fromkeys(listed))
    assert not set(listed) & {"common", "builders", "prepare", "weights"}


@pytest.mark.parametrize("words", [["list"], ["list", "films"], ["list", "configs", "models"]])
def test_a_list_of_something_else_is_refused(words):
    done = run_here("knee_jax", *words)
    assert done.returncode == 1
    assert done.stderr == (
        "error: knee-jax list takes one of: configs, variants, models, weights, datasets, tables\n"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("knee-jax pre", ["prepare", "predict"]),
        ("knee-jax train --config=si", ["siamese_gap"]),
        ("knee-jax train --config=kpn:tau_0", ["tau_025", "tau_075"]),
        ("knee-jax train --workdir=x", []),
    ],
)
def test_bash_completes(line, expected, tmp_path):
    script = run_here("knee_jax", "completion", "bash").stdout
    names = {kind: run_here("knee_jax", "list", kind).stdout for kind in ("configs", "variants")}
    for kind, text in names.items():
        (tmp_path / kind).write_text(text)
    play = f"""
knee-jax() {{ cat "{tmp_path}/$2"; }}
{script}
COMP_LINE='{line}'
COMP_POINT=${{#COMP_LINE}}
COMP_CWORD={line.count(" ")}
_knee_jax
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", play], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.split() == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script(shell):
    done = run_here("knee_jax", "completion", shell)
    assert done.returncode == 0
    assert " ".join(COMMANDS) in done.stdout
    assert "knee-jax list variants" in done.stdout


def test_the_models_of_convert_are_those_it_converts():
    assert sorted(convert_command.MODELS) == sorted(MODELS)


def value(file, argument=""):
    return f"{REPOSITORY / file}:{argument}".removesuffix(":")


def test_configs_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kpn = value("configs/kpn.py", "no_kpn,demo")
    for arguments, expected in (
        (["--config=kpn:no_kpn,demo", "--workdir=kpn"], [f"--config={kpn}", "--workdir=kpn"]),
        (["--config", "kpn:no_kpn,demo"], ["--config", kpn]),
        (["--config=kl"], [f"--config={value('configs/kl.py')}"]),
        (["--config.model.name=kpn"], ["--config.model.name=kpn"]),
        (["--config=own.py:x"], ["--config=own.py:x"]),
    ):
        assert config_argument.rewrite(arguments) == expected
    with pytest.raises(UserError, match=r"^configs/kpn\.py: no such file; .* --config=kpn:demo$"):
        config_argument.resolve("configs/kpn.py:demo")
    with pytest.raises(UserError, match=r"there is no config 'kpm'; did you mean 'kpn'\?"):
        config_argument.resolve("kpm:demo")
    monkeypatch.chdir(REPOSITORY)
    assert config_argument.resolve("configs/kpn.py:demo") == "configs/kpn.py:demo"


@pytest.mark.parametrize(
    "variant", [*(f"{name}:" for name in config_argument.names()), *config_argument.variants()]
)
def test_the_config_of_a_run_is_read_back(variant, tmp_path):
    name, _, changes = variant.partition(":")
    config = importlib.import_module(f"knee_jax.configs.{name}").get_config(changes)
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    assert saved_config.get_config(str(path)) == config


@pytest.fixture
def run_of(monkeypatch):
    """Runs `knee-jax ARGUMENTS` but for the training; returns the flags."""
    from absl import flags

    from knee_jax.cli import demo, train

    def run_command(*arguments):
        seen = {}
        names = ("config", "workdir", "data_dir", "mode")
        for command in (train, demo):
            monkeypatch.setattr(
                command, "main", lambda _: seen.update((n, flags.FLAGS[n].value) for n in names)
            )
        done = run_here("knee_jax", *arguments)
        assert done.returncode == 0, done.stderr
        return seen

    return run_command


def test_a_config_of_a_run_can_be_changed(run_of, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model": {"blocks": [1, 2]}, "rate": 0.5, "parts": [[1], 2]}))
    seen = run_of(
        "train",
        f"--config={path}",
        "--workdir=x",
        "--config.rate=2",
        "--config.model.blocks=(3,4)",
    )
    expected = {"model": {"blocks": (3, 4)}, "rate": 2.0, "parts": ((1,), 2)}
    assert seen["config"].to_dict() == expected
    for text, message in (("{", "is not JSON"), ("[1]", "holds no config"), (None, "no such file")):
        path.write_text(text) if text else path.unlink()
        done = run_here("knee_jax", "train", f"--config={path}", "--workdir=x")
        assert done.returncode == 1
        assert f"{path}: {message}" in done.stderr
        assert done.stderr.count("\n") == 1


def test_flags_without_a_command_are_those_of_train(run_of):
    seen = run_of("--config=kpn:demo", "--workdir=x", "--mode=evaluate", "--config.epochs=3")
    assert (seen["workdir"], seen["mode"], seen["data_dir"]) == ("x", "evaluate", "data")
    assert seen["config"].epochs == 3


def test_the_demo_is_a_run_of_kpn_unless_told_otherwise(run_of):
    seen = run_of("demo", "--config.epochs=1")
    assert seen["workdir"] == "runs/demo"
    assert seen["config"].paper_row == "kpn.py"
    assert (seen["config"].data.dataset, seen["config"].epochs) == ("phantom_xray/demo", 1)
    seen = run_of("demo", "--config=kl:demo", "--workdir", "y")
    assert (seen["workdir"], seen["config"].data.dataset) == ("y", "kneekl224")
