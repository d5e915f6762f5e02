import json

import pytest

from knee_jax.files import hash_of
from knee_jax.workdir import manifest

FILES = {"a.json": b"one", "b.npz": b"two"}


@pytest.fixture
def run(tmp_path):
    manifest.write(tmp_path, FILES, "config")
    return tmp_path


def test_what_was_written_is_sound(run):
    listed = manifest.read(run)
    assert {name: (run / name).read_bytes() for name in FILES} == FILES
    assert [listed.fault(name) for name in (*FILES, "unknown")] == ["", "", ""]
    assert listed.config == "config"
    assert listed.accepts("a.json", b"one")
    assert not listed.accepts("a.json", b"other")


def test_damage_is_told(run):
    (run / "a.json").write_bytes(b"onE")
    (run / "b.npz").unlink()
    listed = manifest.read(run)
    assert listed.fault("a.json") == manifest.DAMAGED
    assert listed.fault("b.npz") == manifest.MISSING
    manifest.write(run, FILES, "config")
    assert manifest.read(run).fault("a.json") == ""


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\x00" * 40, None])
def test_a_damaged_manifest_is_not_believed(run, caplog, content):
    text = (run / manifest.FILE).read_text()
    changed = text.replace(hash_of(b"one"), hash_of(b"onE")).encode()
    (run / manifest.FILE).write_bytes(changed if content is None else content)
    assert manifest.read(run) is None
    assert "cannot be checked for damage" in caplog.text


def test_a_kill_between_two_writes_leaves_files_that_are_accepted(run, monkeypatch):
    """Whatever was written by then, and whichever file is killed in."""
    after = {"a.json": b"1", "b.npz": b"2"}
    write, calls = manifest.write_bytes, []
    written_json = manifest.write_json

    class Killed(Exception):
        pass

    for last in range(1, 5):
        manifest.write(run, FILES, "config")
        calls.clear()

        def counted(function, path, content, last=last):
            if len(calls) == last:
                raise Killed
            calls.append(path)
            function(path, content)

        monkeypatch.setattr(manifest, "write_bytes", lambda *a: counted(write, *a))
        monkeypatch.setattr(manifest, "write_json", lambda *a: counted(written_json, *a))
        try:
            manifest.write(run, after, "config")
        except Killed:
            assert len(calls) == last
        monkeypatch.undo()
        listed = manifest.read(run)
        assert [listed.fault(name) for name in FILES] == ["", ""]
    assert json.loads((run / manifest.FILE).read_text())["body"]["config"] == "config"
