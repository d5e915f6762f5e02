"""What the how-to shows works as it stands, and the container file does what it says."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.commands import REPOSITORY
from tests.serve.conftest import knee

HOW_TO = (REPOSITORY / "docs/how-to/serve-a-page.md").read_text(encoding="utf-8")
CONTAINER = (REPOSITORY / "Containerfile").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"


def health_check():
    """The command of HEALTHCHECK."""
    (words,) = re.findall(r"HEALTHCHECK .*?CMD (\[.*?\])$", CONTAINER, re.S | re.M)
    return json.loads(words)


@pytest.mark.slow
def test_the_clients_of_the_how_to_get_grades(shared, tmp_path):
    _, address, _ = shared
    folder = tmp_path / "my_films"
    folder.mkdir()
    for level, name in ((10, "a_R.png"), (40, "b_R.png")):
        (folder / name).write_bytes(knee(level))
    (folder / "c.txt").write_text("a text")
    (program,) = re.findall(r"```python\n(.*?)```", HOW_TO, re.S)
    line = [sys.executable, "-W", "error", "-c", program.replace(ADDRESS, address)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert (first, second) == ("a_R.png R 1", "b_R.png R 4")
    assert third.startswith("c.txt  neither a film (DICOM) nor a picture")
    if shutil.which("curl"):
        (tmp_path / "film.dcm").write_bytes(knee(20))
        lines = re.findall(r"^    (curl .*)$", HOW_TO, re.M)
        assert len(lines) == 2
        as_json, as_csv = (
            subprocess.run(
                shlex.split(each.replace(ADDRESS, address)),
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for each in lines
        )
        assert json.loads(as_json)["rows"][0]["kl_pred"] == 2
        assert as_csv.startswith("file,side,status,")
    check = [sys.executable, *health_check()[1:]]
    check[-1] = check[-1].replace(ADDRESS, address)
    assert subprocess.run(check, timeout=20).returncode == 0
    check[-1] = check[-1].replace("/ready", "/nowhere")
    assert subprocess.run(check, timeout=20, capture_output=True).returncode != 0


def test_the_container_runs_as_nobody_from_the_wheel():
    user = re.findall(r"^USER (\S+)$", CONTAINER, re.M)
    assert user
    assert user[-1].split(":")[0] not in ("0", "root")
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    sources = re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINER, re.M)
    assert {f"!{source}" for line in sources for source in line.split()} | {"*"} == set(ignored)
    assert "--host=0.0.0.0" in CONTAINER.splitlines()[-1]
    assert health_check()[0] == "python"
    assert not re.search(r"TOKEN=\S|apt-get|curl ", CONTAINER)
    # What is shown as the command of a user without rights grants none.
    assert "--read-only" in HOW_TO
    assert "--cap-drop=ALL" in HOW_TO
