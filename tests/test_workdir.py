import json

import ml_collections
import pytest

from knee_jax import workdir
from knee_jax.errors import UserError


def config(**changes):
    return ml_collections.ConfigDict(
        {"seed": 0, "grades": ("kl",), "data": {"workers": 0, "fold": 0}, "log_every": 10} | changes
    )


def test_a_folder_is_claimed_with_config_and_environment(tmp_path):
    workdir.claim(tmp_path / "run", config())
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved == {
        "seed": 0,
        "grades": ["kl"],
        "data": {"workers": 0, "fold": 0},
        "log_every": 10,
    }
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["devices"]
    assert set(environment["packages"]) == set(workdir.PACKAGES)


def test_the_same_config_and_free_fields_may_use_it_again(tmp_path):
    workdir.refuse_other(tmp_path, config())
    workdir.claim(tmp_path, config())
    workdir.require(tmp_path)
    workdir.refuse_other(tmp_path, config())
    workdir.refuse_other(tmp_path, config(log_every=3, data={"workers": 4, "fold": 0}))


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        workdir.require(tmp_path)


def test_a_folder_is_held_by_one_run_at_a_time(tmp_path):
    with (
        workdir.hold(tmp_path / "run"),
        pytest.raises(UserError, match="another process is training in"),
        workdir.hold(tmp_path / "run"),
    ):
        pass
    with workdir.hold(tmp_path / "run"):
        pass


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert workdir.git_commit() is None
    assert workdir.environment()["git_commit"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"seed \(0 there, 1 now\)"),
        ({"data": {"workers": 0, "fold": 2}}, r"data.fold \(0 there, 2 now\)"),
        ({"extra": True}, r"extra \(absent there, True now\)"),
    ],
)
def test_another_config_is_refused_by_field(tmp_path, changes, message):
    workdir.claim(tmp_path, config())
    with pytest.raises(UserError, match=message):
        workdir.refuse_other(tmp_path, config(**changes))


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(UserError, match="run cannot be made"), workdir.hold(tmp_path / "run"):
        pass
