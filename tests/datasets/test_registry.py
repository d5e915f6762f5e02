"""The modules that are data sets, and the names of splits."""

import pytest

from knee_jax import datasets
from knee_jax.datasets.builders import IngestPlan
from knee_jax.errors import UserError

HELPER = "from knee_jax.datasets.phantom_xray import Builder\n"
DECLARED = """
from knee_jax.datasets import phantom_xray

class Builder(phantom_xray.Builder):
    name = "declared"
"""


def test_the_data_sets():
    assert datasets.names() == [
        "adapted_windows",
        "kneekl224",
        "most_xray",
        "oai_mri",
        "oai_xray",
        "phantom_most",
        "phantom_mri",
        "phantom_windows",
        "phantom_xray",
        "study_windows",
    ]


def test_a_module_is_one_because_it_defines_a_builder(tmp_path, monkeypatch):
    before = datasets.names()
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path)])
    (tmp_path / "helper_of_mine.py").write_text(HELPER)
    (tmp_path / "set_of_mine.py").write_text(DECLARED)
    assert datasets.names() == sorted([*before, "set_of_mine"])
    made = datasets.builder("set_of_mine/tiny", tmp_path)
    assert made.builder_config.name == "tiny"
    for helper in ("helper_of_mine", "builders", "shards"):
        words = f"no data set is called '{helper}' in .*datasets; there are: adapted_win"
        with pytest.raises(UserError, match=words):
            datasets.builder(helper, tmp_path)


@pytest.mark.parametrize("split", ["all", "train+val", "a-b", "val[:10]", ""])
def test_splits_whose_names_tfds_reads_otherwise(split):
    with pytest.raises(UserError, match=r"a split cannot be called .* other than all") as caught:
        IngestPlan({"train": [], split: []})
    assert "\n" not in str(caught.value)


def test_other_splits():
    assert list(IngestPlan({"train": [], "val_2": [], "study": []}).jobs) == [
        "train",
        "val_2",
        "study",
    ]
