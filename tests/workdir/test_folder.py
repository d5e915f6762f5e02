import datetime
import json

import pytest

from knee_jax.config import load
from knee_jax.errors import UserError
from knee_jax.workdir import folder


def config(changes=(), model="resnet"):
    """Return the base config with another network, and fields changed by dotted names."""
    base = load.base()
    base.model = load.model(model)
    return load.changed(load.parse(base), dict(changes))


def test_a_folder_is_given_config_and_environment(tmp_path):
    written = config({"seed": 3, "data.fold": 2, "optimizer.drop_epochs": (4, 9)})
    folder.write_config(tmp_path / "run", written)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved == load.plain(written)
    assert (saved["seed"], saved["targets"], saved["data"]["fold"]) == (3, ["kl"], 2)
    assert load.saved(tmp_path / "run" / "config.json") == written
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["devices"]
    assert set(environment["packages"]) == set(folder.PACKAGES)
    assert {"tensorflow-datasets", "clu", "ml-collections", "pydicom"} <= set(folder.PACKAGES)
    assert environment["cpu"]
    assert environment["command"] == folder.command()
    begun = datetime.datetime.fromisoformat(environment["started"])
    assert abs(datetime.datetime.now(datetime.UTC) - begun).total_seconds() < 60


def test_the_time_of_all_sessions_adds_up_and_the_first_command_stays(tmp_path, monkeypatch):
    clock = iter([0.0, 10.0, 100.0, 105.5])
    monkeypatch.setattr(folder.time, "monotonic", lambda: next(clock))
    folder.write_config(tmp_path, config())
    first = json.loads((tmp_path / "environment.json").read_text())
    with folder.timed([tmp_path]):
        pass
    typed = ["/x/python", "-I", "/x/knee-jax", "train", "--workdir=a b"]
    monkeypatch.setattr("sys.orig_argv", typed)
    assert folder.command() == "knee-jax train '--workdir=a b'"
    folder.write_config(tmp_path, config())
    with pytest.raises(KeyboardInterrupt), folder.timed([tmp_path]):
        raise KeyboardInterrupt
    again = json.loads((tmp_path / "environment.json").read_text())
    assert again["training_seconds"] == 15.5
    assert (again["command"], again["started"]) == (first["command"], first["started"])
    assert folder.commit_of(tmp_path) == again["git_commit"]


def test_a_module_is_run_again_as_one(monkeypatch):
    monkeypatch.setattr("sys.orig_argv", ["/x/python3", "-m", "knee_jax", "demo"])
    assert folder.command() == "python -m knee_jax demo"
    monkeypatch.setattr("sys.orig_argv", ["python"])
    assert folder.command() == "python"


def test_the_same_config_and_free_fields_may_use_it_again(tmp_path):
    folder.check_same_config(tmp_path, config())
    folder.write_config(tmp_path, config())
    folder.require(tmp_path)
    folder.check_same_config(tmp_path, config())
    free = {"log_every": 3, "data.workers": 4, "sweep.seeds": 2, "evaluation.scheme": "class"}
    folder.check_same_config(tmp_path, config(free))


def test_every_free_field_is_a_field():
    names = load.flatten(load.plain(config()))
    for free in folder.FREE_FIELDS:
        assert any(name == free or (free.endswith(".") and name.startswith(free)) for name in names)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        folder.require(tmp_path)


def test_a_folder_is_locked_by_one_run_at_a_time(tmp_path):
    with (
        folder.lock(tmp_path / "run"),
        pytest.raises(UserError, match="another process is training in"),
        folder.lock(tmp_path / "run"),
    ):
        pass
    with folder.lock(tmp_path / "run"):
        pass


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert folder.git_commit() is None
    assert folder.environment()["git_commit"] is None


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({"seed": 1}, "resnet", r"it differs in seed \(0 there, 1 now\):"),
        ({"data.fold": 2}, "resnet", r"it differs in data.fold \(0 there, 2 now\):"),
        ({"data.workers": 4, "epochs": 2}, "resnet", r"differs in epochs \(30 there, 2 now\):"),
        ({}, "tiulpin2018", r"model.name \(resnet there, tiulpin2018 now\)"),
        ({}, "tiulpin2018", r"model.patch \(absent there, 128 now\)"),
        ({}, "tiulpin2018", r"model.depth \(18 there, absent now\)"),
    ],
)
def test_another_config_is_refused_by_field(tmp_path, changes, model, message):
    folder.write_config(tmp_path, config())
    with pytest.raises(UserError, match=message):
        folder.check_same_config(tmp_path, config(changes, model))


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(UserError, match="run cannot be made"), folder.lock(tmp_path / "run"):
        pass
