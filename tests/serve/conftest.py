import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

from knee_jax.inference.predictor import Predictor
from knee_jax.ingest.knee_files import KneeFileJob
from knee_jax.ingest.sources import ListJob
from knee_jax.serve import app
from knee_jax.serve.batching import Batcher
from knee_jax.serve.grading import Grader
from knee_jax.serve.limits import Limits
from knee_jax.targets import get_all
from tests.commands import REPOSITORY, wait_for
from tests.inference import drawn_knees

SIDE = 224


def means():
    """A model whose grade is a low grey above `DARK`: 0 to 40 is KL 0 to 4."""

    def forward(batch):
        low = np.percentile(np.asarray(batch["image"]), 40, (1, 2))
        level = (low - float(drawn_knees.DARK)) / 10
        weights = np.exp(-2 * np.abs(np.arange(5) - level[:, None]))
        return {"kl": (weights / weights.sum(1, keepdims=True)).astype(np.float32)}

    return Predictor(
        name="means",
        targets=get_all(("kl",)),
        needs_landmarks=False,
        reads="image",
        side=SIDE,
        forward=forward,
        heat=lambda batch: batch["image"].astype(np.float32) / 255,
        temperatures={"kl": 2.0},
        card="# means, a model that reads brightness",
    )


def knee(level, side="R"):
    """PNG of a crop that `means` grades by its level and the drawn localiser finds."""
    x = 60 if side == "R" else SIDE - 60
    grey, _ = drawn_knees.picture(SIDE, SIDE, [(x, 115, 100, side)])
    lighter = np.where(grey < drawn_knees.DARK + 10, grey + np.uint8(level), grey)
    good, data = cv2.imencode(".png", lighter)
    assert good
    return data.tobytes()


class Here:
    """A reader in this process, which spares starting others."""

    number = 1

    def __init__(self):
        self.read = KneeFileJob.__call__

    def warm(self):
        pass

    def files(self, path, name, most):
        return ListJob(path, name, most)()

    def stop(self):
        pass


def grader_with(reader, predictor=None, localiser=None):
    def make(metrics):
        batcher = Batcher(observe=metrics.batch)
        finder = localiser or drawn_knees.localiser()
        return Grader(predictor or means(), finder, reader, batcher, metrics.stage)

    return make


@pytest.fixture
def serve(tmp_path):
    """Starts an application, and returns a client of it once it is ready."""
    opened = []

    def start(reader=None, *, ready=True, headers=None, predictor=None, localiser=None, **changes):
        settings = {n: changes.pop(n) for n in ("token", "hosts", "lanes") if n in changes}
        made = app.create(
            grader_with(reader or Here(), predictor, localiser),
            Limits(**changes),
            spool=tmp_path,
            **settings,
        )
        client = TestClient(made, base_url="http://localhost", headers=headers)
        opened.append(client.__enter__())
        end = time.monotonic() + 90
        while ready and client.get("/ready").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.01)
        return client

    yield start
    for client in opened:
        client.__exit__(None, None, None)
    # Whatever was asked, nothing of it is left on the disk.
    assert list(tmp_path.glob("knee_jax_uploads_*")) == []


@pytest.fixture(scope="session")
def started(tmp_path_factory):
    """Starts the server of drawn knees; returns its process, address and temporary folder."""
    processes = []

    def start(*arguments):
        folder = tmp_path_factory.mktemp("server")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.serve.drawn_server", *map(str, arguments)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TMPDIR": str(folder)},
        )
        processes.append(process)
        address = process.stdout.readline().strip()
        wait_for(lambda: _is_ready(address), 60)
        return process, address, folder

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def shared(started):
    """A server that tests share: its process, address and temporary folder."""
    return started()


def _is_ready(address):
    try:
        with urllib.request.urlopen(f"{address}/ready"):
            return True
    except urllib.error.HTTPError:
        return False
