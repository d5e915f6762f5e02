import os

import pytest

from knee_jax.errors import UserError
from knee_jax.ingest.tree import walk


def grow(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")


def test_folders_and_files_in_order_of_their_names(tmp_path):
    grow(tmp_path, "b/2", "b/10", "a/x/1", "top", "b-c/1", "a/.hidden", ".cache/1")
    (tmp_path / "empty").mkdir()
    found = walk(tmp_path)
    assert list(found.files.items()) == [
        ("", ["top"]),
        ("a", []),
        ("a/x", ["1"]),
        ("b", ["10", "2"]),
        ("b-c", ["1"]),
        ("empty", []),
    ]
    assert not found.unreadable
    assert not any(found.notes.values())
    # What pathlib finds, which walks in a way of its own.
    files = {
        f"{folder}/{name}".lstrip("/") for folder, names in found.files.items() for name in names
    }
    everything = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {path for path in everything if "/." not in f"/{path}"}


def test_folders_that_are_not_entered(tmp_path):
    grow(tmp_path, "00m/a/1", "12m/a/1", "12m/2")
    assert list(walk(tmp_path, lambda folder: folder != "12m").files) == ["", "00m", "00m/a"]


def test_links_are_followed_and_loops_are_not(tmp_path):
    grow(tmp_path, "disk/9000001/001", "study/00m/9000002/001")
    study = tmp_path / "study"
    (study / "00m" / "9000001").symlink_to(tmp_path / "disk" / "9000001")
    (study / "00m" / "9000002" / "back").symlink_to(study)
    # The name comes first, but it is the link.
    (study / "00m" / "8_again").symlink_to(study / "00m" / "9000002")
    (study / "00m" / "9000002" / "002").symlink_to("nothing")
    found = walk(study)
    assert found.files == {
        "": [],
        "00m": [],
        "00m/9000001": ["001"],
        "00m/9000002": ["001", "002"],
    }
    assert found.notes["folders_linked_twice"] == 2


def test_pipes_are_not_files(tmp_path):
    grow(tmp_path, "a/1")
    os.mkfifo(tmp_path / "a" / "2")
    (tmp_path / "a" / "3").symlink_to(tmp_path / "a" / "2")
    found = walk(tmp_path)
    assert found.files["a"] == ["1"]
    assert found.notes["special_files"] == 2


def test_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    """Not by permissions, which do not apply to the superuser."""
    grow(tmp_path, "a/1", "b/1")
    list_folder = os.scandir

    def scandir(path):
        if path == tmp_path / "a":
            raise PermissionError(13, "Permission denied")
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = walk(tmp_path)
    assert found.unreadable == {"a": "Permission denied"}
    assert found.files == {"": [], "b": ["1"]}
    with pytest.raises(UserError, match="nowhere: cannot be listed"):
        walk(tmp_path / "nowhere")
