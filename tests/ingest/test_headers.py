import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pydicom
import pytest

from knee_jax.ingest import dicom_header, headers, pool
from knee_jax.ingest.headers import ANOTHER, Header, HeaderLoader

PIXELS = np.zeros((4, 6), np.uint16)


@pytest.fixture
def root(tmp_path, make):
    """Two films and a file that is none."""
    root = tmp_path / "study"
    make.write(
        root / "a" / "9000001" / "001",
        make.dataset(
            PIXELS,
            SeriesDescription=" PA  Fixed Flexion Right Knee",
            Laterality="R",
            PatientID="9000001",
            PatientName="Doe^Jane",
            PatientBirthDate="19400102",
            StudyDate="20040511",
            StudyTime="101500.00",
            SeriesTime="102000",
        ),
    )
    make.write(root / "b" / "002", make.dataset(PIXELS, ImageLaterality="L", PatientID="Doe^Jane"))
    (root / "note").write_text("a note, not a film\n" * 50)
    return root


PATHS = ["b/002", "a/9000001/001", "note", "nowhere"]


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that worker processes are asked to open from now on."""
    found = []
    run = pool.run_in_order

    def recording(jobs, workers, seconds):
        for job in jobs:
            _, paths = job.args
            found.extend(pathlib.PurePath(path).name for path in paths)
        return run(jobs, workers, seconds)

    monkeypatch.setattr(pool, "run_in_order", recording)
    return found


def cache_file(folder):
    (path,) = folder.glob("*.jsonl")
    return path


def test_what_files_say_of_themselves(root):
    found = HeaderLoader().read(root, PATHS)
    assert list(found) == PATHS
    assert found["a/9000001/001"] == Header(
        modality="CR",
        description="PA Fixed Flexion Right Knee",
        side="R",
        subject="9000001",
        taken="20040511 102000",
    )
    assert found["b/002"] == Header(modality="CR", side="L")
    assert found["note"].reason == "not_dicom"
    assert found["nowhere"].reason == "unreadable"


def test_header_without_the_pixels_is_that_with_them(root):
    for keyword in headers.KEYWORDS:
        for path in PATHS[:2]:
            whole = pydicom.dcmread(root / path).get(keyword)
            assert dicom_header.read_header(root / path, headers.KEYWORDS).get(keyword) == whole


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("", ""),
        ("9000001", "9000001"),
        ("OAI-9000001", "9000001"),
        ("9000002", ANOTHER),
        ("OAI-9000002", ANOTHER),
        ("9000001 9000002", "9000001"),
        # Which are no ids of the study's subjects.
        ("001", ""),
        ("a", ""),
        ("MB00123", ""),
        ("900000", ""),
        ("Doe^Jane", ""),
    ],
)
def test_only_ids_of_the_path_are_kept(root, make, subject, expected):
    make.write(root / "a" / "9000001" / "001", make.dataset(PIXELS, PatientID=subject))
    assert HeaderLoader().read(root, PATHS)["a/9000001/001"].subject == expected


class TestCache:
    def test_every_file_is_opened_once(self, root, tmp_path, opened):
        loader = HeaderLoader(tmp_path / "cache")
        first = loader.read(root, PATHS)
        assert opened == ["002", "001", "note", "nowhere"]
        opened.clear()
        assert loader.read(root, PATHS) == first == HeaderLoader().read(root, PATHS)
        # What cannot be read is tried again, here and by the loader without a cache.
        assert opened[:2] == ["note", "nowhere"]
        assert not list(root.rglob("*.jsonl"))

    def test_a_changed_file_is_read_again(self, root, tmp_path, make, opened):
        loader = HeaderLoader(tmp_path / "cache")
        loader.read(root, PATHS[:2])
        path = root / "b" / "002"
        for tags in ({"Laterality": "R"}, {"Laterality": "L"}):
            status = path.stat()
            make.write(path, make.dataset(PIXELS, **tags))
            # Also where the size is the same.
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
            opened.clear()
            assert loader.read(root, PATHS[:2])["b/002"].side == tags["Laterality"]
            assert opened == ["002"]
        assert path.stat().st_size == status.st_size

    def test_no_names_no_birthdays(self, root, tmp_path):
        HeaderLoader(tmp_path / "cache").read(root, PATHS)
        text = cache_file(tmp_path / "cache").read_text()
        assert "Right Knee" in text
        for secret in ("Doe", "Jane", "19400102", str(root)):
            assert secret not in text

    @pytest.mark.slow
    def test_a_killed_walk_keeps_what_it_has_read(self, root, tmp_path, opened, monkeypatch):
        monkeypatch.setattr(headers, "_CHUNK", 1)
        loader = HeaderLoader(tmp_path / "cache")
        whole = loader.read(root, PATHS[:2])
        path = cache_file(tmp_path / "cache")
        text = path.read_text()
        for length in range(len(text)):
            path.write_text(text[:length])
            opened.clear()
            assert loader.read(root, PATHS[:2]) == whole
            kept = sum(1 for line in text[:length].split("\n")[1:] if _is_whole(line))
            assert len(opened) == 2 - (kept if text[:length].count("\n") else 0)
            assert sorted(path.read_text().splitlines()) == sorted(text.splitlines())

    def test_of_another_version_nothing_is_known(self, root, tmp_path, opened):
        loader = HeaderLoader(tmp_path / "cache")
        whole = loader.read(root, PATHS[:2])
        path = cache_file(tmp_path / "cache")
        path.write_text(path.read_text().replace("knee_jax headers", "older headers"))
        opened.clear()
        assert loader.read(root, PATHS[:2]) == whole
        assert len(opened) == 2
        assert "older" not in path.read_text()

    def test_trees_have_files_of_their_own(self, root, tmp_path):
        loader = HeaderLoader(tmp_path / "cache")
        loader.read(root, PATHS[:1])
        loader.read(root / "b", ["002"])
        assert len(list((tmp_path / "cache").glob("*.jsonl"))) == 2


def _is_whole(line):
    try:
        return bool(json.loads(line))
    except ValueError:
        return False


@pytest.mark.long
def test_workers_change_nothing(make, tmp_path, monkeypatch):
    monkeypatch.setattr(headers, "_CHUNK", 5)
    paths = [f"{number:03d}" for number in range(23)]
    for number, path in enumerate(paths):
        make.write(tmp_path / path, make.dataset(PIXELS, SeriesDescription=f"film {number}"))
    one = HeaderLoader().read(tmp_path, paths)
    assert HeaderLoader(workers=2).read(tmp_path, paths) == one
    assert [header.description for header in one.values()] == [f"film {n}" for n in range(23)]


@pytest.mark.parametrize("workers", [1, 2])
def test_only_the_file_that_takes_too_long_is_given_up(make, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(headers, "_CHUNK", 4)
    root = tmp_path / "study"
    paths = [f"{number:03d}" for number in range(18)]
    for path in paths:
        make.write(root / path, make.dataset(PIXELS, SeriesDescription=f"film {path}"))
    endless = paths[6]
    make.write(root / endless, make.dataset(PIXELS, PixelData=None))
    make.make_endless(root / endless)
    found = HeaderLoader(tmp_path / "cache", workers, file_timeout=1).read(root, paths)
    assert found.pop(endless) == Header(reason="timed_out", detail="not read within 1 seconds")
    assert [h.description for h in found.values()] == [f"film {p}" for p in paths if p != endless]
    lines = cache_file(tmp_path / "cache").read_text().splitlines()[1:]
    assert [json.loads(line)[0] for line in lines] == [path for path in paths if path != endless]


WALK = """
import pathlib, sys
from knee_jax.ingest import headers

headers._CHUNK = 2
root, cache = map(pathlib.Path, sys.argv[1:])
headers.HeaderLoader(cache, workers=2).read(root, sorted(path.name for path in root.iterdir()))
"""


@pytest.mark.long
def test_killed_at_random_moments(make, tmp_path, opened):
    root, cache = tmp_path / "study", tmp_path / "cache"
    paths = [f"{number:03d}" for number in range(600)]
    for path in paths:
        make.write(root / path, make.dataset(PIXELS, SeriesDescription=f"film {path}"))
    whole = HeaderLoader().read(root, paths)
    rng, kept = random.Random(0), [0]

    def size():
        return sum(path.stat().st_size for path in cache.glob("*"))

    for trial in range(8):
        # From before there is anything; each goes on from what the one before has left.
        enough = size() + (rng.randrange(12_000) if trial else 0)
        line = [sys.executable, "-c", WALK, str(root), str(cache)]
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
        while size() < enough and process.poll() is None:
            time.sleep(0.0005)
        process.kill()
        process.wait()
        copy = tmp_path / f"copy_{trial}"
        shutil.copytree(cache, copy) if cache.exists() else copy.mkdir()
        lines = [line for path in copy.glob("*") for line in path.read_text().split("\n")[1:]]
        kept.append(sum(map(_is_whole, lines)))
        opened.clear()
        assert HeaderLoader(copy).read(root, paths) == whole
        assert len(opened) == len(paths) - kept[-1]
    assert kept == sorted(kept)
    assert len({number for number in kept if 0 < number < len(paths)}) > 1, kept
