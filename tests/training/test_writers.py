import json

import pytest

from knee_jax.training.writers import ScalarWriter


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_rows_are_appended(tmp_path):
    with ScalarWriter(tmp_path, 0) as writer:
        writer.write(1, {"train/loss": 2.5})
        writer.write(2, {"train/loss": 1.5, "train/rate": 3.0})
    assert rows(tmp_path) == [
        {"step": 1, "train/loss": 2.5},
        {"step": 2, "train/loss": 1.5, "train/rate": 3.0},
    ]


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
    with ScalarWriter(tmp_path, 0) as writer:
        for step in range(1, 6):
            writer.write(step, {"train/loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "train/lo')  # Killed in the middle of a line.
    with ScalarWriter(tmp_path, 3) as writer:
        writer.write(4, {"train/loss": 40.0})
    assert [row["train/loss"] for row in rows(tmp_path)] == [1.0, 2.0, 3.0, 40.0]


def test_scalars_reach_tensorboard(tmp_path):
    with ScalarWriter(tmp_path, 0) as writer:
        writer.write(7, {"train/loss": 0.25})
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert (b"train/loss") in file.read_bytes()


@pytest.mark.parametrize(
    "torn",
    [b"\x00\x00\x00\x00\n", b'{"step": 2, "train/l\n', b"[2]\n", b"\xff\xfe\n", b'{"loss": 1}\n'],
)
def test_lines_that_a_power_cut_left_are_taken_out(tmp_path, torn, caplog):
    whole = [b'{"step": 1, "train/loss": 1.0}\n', b'{"step": 3, "train/loss": 3.0}\n']
    (tmp_path / "metrics.jsonl").write_bytes(whole[0] + torn + whole[1] + torn[:-1])
    with ScalarWriter(tmp_path, 3):
        pass
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(whole)
    assert "2 lines are no rows of scalars" in caplog.text
