"""Links and references of the documentation."""

import json
import os
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from knee_jax.config import reference
from tests.commands import REPOSITORY

PAGES = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]
NOTEBOOKS = [*REPOSITORY.glob("docs/**/*.ipynb")]
LINK = re.compile(r"\]\(([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_relative_links_lead_somewhere(page):
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    broken = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not broken


@pytest.mark.long
@pytest.mark.parametrize("name", [path.stem for path in REPOSITORY.glob("docs/images/*.py")])
def test_pictures_are_what_their_scripts_draw(name, tmp_path):
    script = shutil.copy(REPOSITORY / "docs/images" / f"{name}.py", tmp_path)
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    drawn, shown = (
        cv2.imread(str(folder / f"{name}.png")) for folder in (tmp_path, REPOSITORY / "docs/images")
    )
    assert drawn.shape == shown.shape
    # Rounding of another machine; all dots of the landmarks make more.
    assert np.mean(np.abs(drawn.astype(int) - shown)) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_notebooks_run_to_their_end(page):
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells), "outputs are not kept"
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    environment = os.environ | {"MPLBACKEND": "agg"}
    line = [sys.executable, "-W", "error", "-c", code + "\nassert len(table) == 4"]
    done = subprocess.run(line, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_reference_of_the_config_is_what_the_code_says():
    """Made again by `knee-jax train --help-config > docs/reference/config.md`."""
    page = (REPOSITORY / "docs/reference/config.md").read_text(encoding="utf-8")
    assert page == reference.render() + "\n"


def test_the_pages_are_found():
    assert len(PAGES) > 8
