"""The command, run as a user runs it: its output, and its files when it is stopped."""

import pathlib
import signal
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from knee_jax.datasets.prepare import prepare
from knee_jax.errors import NOT_STARTED, UserError
from tests.commands import lives, wait_for
from tests.folders import contents

NUM_CROPS = 600


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    for number in range(NUM_CROPS):
        folder = root / "train" / str(number % 5)
        folder.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (224, 224), np.uint8)
        cv2.imwrite(str(folder / f"{9000000 + number}R.png"), image)
    (root / "train/0/9100000L.png").write_text("text")
    return root


@pytest.fixture(scope="module")
def whole(raw, tmp_path_factory):
    """Files of a set that was prepared without disturbance."""
    return contents(prepare("kneekl224", tmp_path_factory.mktemp("data"), raw, workers=1))


def command(raw, data_dir, *more, before=""):
    """Start the command; `before` is run by a shell first in the same process."""
    flags = ["--dataset=kneekl224", f"--manual_dir={raw}", f"--data_dir={data_dir}", *more]
    words = [sys.executable, "-m", "knee_jax.prepare", *flags]
    shell = ["bash", "-c", f'{before} exec "$@"', "bash"]
    pipe = subprocess.PIPE
    return subprocess.Popen([*shell, *words], stdout=pipe, stderr=pipe, text=True)


def test_report_is_printed(raw, tmp_path, whole):
    process = command(raw, tmp_path, "--workers=2")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    folder = tmp_path / "kneekl224" / "1.0.0"
    assert contents(folder) == whole
    table = dict(line.rsplit(maxsplit=1) for line in out.splitlines() if line)
    assert table["in the tables or on an image"] == "601"
    assert table["on an image that can be read"] == table["split train"] == "600"
    assert "    without        1  not_an_image" in out.splitlines()
    assert table["excluded:"] == str(folder / "exclusions.csv")
    index = pd.read_csv(folder / "index.csv")
    of_kl = [line.split()[:2] for line in out.splitlines() if line[:1] in "01234m" and line]
    assert dict(of_kl)["2"] == str((index["kl"] == 2).sum())
    assert "601/601" in err
    assert "film/s" in err
    assert "TensorFlow" not in out + err


def test_a_set_that_no_paper_counts_cannot_be_what_is_expected(raw, tmp_path):
    process = command(raw, tmp_path, "--workers=1", "--expect=paper")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no paper counts kneekl224; choose most_xray/oarsi" in err
    # Before hours of work, not after.
    assert "reading" not in err
    assert not any(tmp_path.iterdir())


def test_prepared_sets_do_not_lie_among_raw_files(raw):
    before = sorted(raw.rglob("*"))
    with pytest.raises(UserError, match=r"lies in the folder of raw files, .*another data_dir"):
        prepare("kneekl224", raw / "data", raw, workers=1)
    assert sorted(raw.rglob("*")) == before


def test_prepared_set_is_found_again(raw, tmp_path):
    folder = prepare("kneekl224", tmp_path, raw, workers=1)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepare("kneekl224", tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times


def test_a_set_without_a_part_of_its_report(raw, tmp_path):
    folder = prepare("kneekl224", tmp_path, raw, workers=1)
    (folder / "index.csv").unlink()
    with pytest.raises(UserError, match=r"index\.csv is gone; delete the folder"):
        prepare("kneekl224", tmp_path, raw, workers=1)


def test_no_tensorflow_and_no_jax(raw, tmp_path):
    program = (
        "import sys; from knee_jax.datasets.prepare import prepare\n"
        f"prepare('kneekl224', {str(tmp_path)!r}, {str(raw)!r}, workers=1)\n"
        "assert not {'tensorflow', 'jax'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    "flag",
    [
        "--dataset=nothing",
        "--workers=0",
        "--manual_dir=/nowhere",
        "--beam_options=--streaming",
        f"--data_dir={__file__}",
    ],
)
def test_mistakes_are_reported_in_one_line(raw, tmp_path, flag):
    process = command(raw, tmp_path, flag)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not out


def children(pid):
    return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 8_000_000])
def test_killed(raw, tmp_path, whole, size):
    """SIGKILL while records are written: nothing looks finished, and the next start mends it."""
    process = command(raw, tmp_path, "--workers=2")
    parent = tmp_path / "kneekl224"

    def written():
        return sum(path.stat().st_size for path in parent.glob("1.0.0.partial/*"))

    wait_for(lambda: any(parent.glob("1.0.0.partial/train-*")) and written() >= size)
    workers = children(process.pid)
    process.kill()
    process.communicate()
    assert not (parent / "1.0.0").exists()
    wait_for(lambda: not any(map(lives, workers)))
    assert contents(prepare("kneekl224", tmp_path, raw, workers=1)) == whole
    assert sorted(path.name for path in parent.iterdir()) == [".lock", "1.0.0", "1.0.0.made_from"]


@pytest.mark.slow
def test_interrupted(raw, tmp_path):
    process = command(raw, tmp_path, "--workers=1")
    parent = tmp_path / "kneekl224"
    wait_for(lambda: any(parent.glob("1.0.0.partial/train-*")))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert sorted(path.name for path in parent.iterdir()) == [".lock", "1.0.0.partial"]


@pytest.mark.slow
def test_two_at_once(raw, tmp_path, whole):
    both = [command(raw, tmp_path, "--workers=1") for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert sum("waiting for another process" in err for _, err in outputs) <= 1
    # One of them read the films, the other found the set.
    assert sum("601/601" in err for _, err in outputs) == 1
    assert contents(tmp_path / "kneekl224" / "1.0.0") == whole


def assert_full_disk_is_reported(process, parent):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith(f"error: {parent}: the disk is full")
    assert "Traceback" not in err
    assert not out
    assert sorted(path.name for path in parent.iterdir()) == [".lock", "1.0.0.partial"]


@pytest.mark.slow
def test_file_too_large(raw, tmp_path):
    limit = "trap '' XFSZ; ulimit -f 5000;"
    process = command(raw, tmp_path, "--workers=1", before=limit)
    assert_full_disk_is_reported(process, tmp_path / "kneekl224")


@pytest.mark.slow
@pytest.mark.parametrize("missing", [20_000_000, 40_000, 4096])
def test_full_disk(raw, small_disk, whole, missing):
    """Down to the last page that is missing, for the tables and the index are written last."""
    pages = sum(-(-len(data) // 4096) for data in whole.values())
    disk = small_disk(pages * 4096 - missing)
    assert_full_disk_is_reported(command(raw, disk, "--workers=1"), disk / "kneekl224")


@pytest.mark.slow
def test_a_script_without_a_main_guard(raw, tmp_path):
    """Its workers import it again, and must not wait for the set that it prepares."""
    script = tmp_path / "script.py"
    call = f"prepare('kneekl224', {str(tmp_path / 'data')!r}, {str(raw)!r}, workers=2)\n"
    script.write_text(f"from knee_jax.datasets.prepare import prepare\n{call}")
    for text, status in (
        (script.read_text(), 1),
        (script.read_text().replace("prepare('", "if __name__ == '__main__': prepare('"), 0),
    ):
        script.write_text(text)
        done = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status, done.stderr
        assert done.stderr.endswith(f"UserError: {NOT_STARTED}\n") == (status == 1)
