"""Numbers of knees in papers, compared with those of a prepared set.

`knees.csv` has the printed numbers: data set and config, quantity, value, source. The quantities
are `knees`, `subjects`, `knees_with_every_grade`, `knees_without_a_grade`, the knees with each
grade (`kl_0`, `osfl_3`, ...) among those with every grade, and `progression_none`,
`progression_fast` and `progression_slow`.
"""

from pathlib import Path

import pandas as pd

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.targets.grades import GRADES, MISSING, NUM_CLASSES
from knee_jax.targets.kinds import Classes

_FILE = Path(__file__).with_suffix(".csv")


def quantities(index: pd.DataFrame) -> dict[str, int]:
    """Count the knees of a prepared set.

    Args:
        index: `index.csv` of the set.
    """
    grades = index[list(GRADES)]
    complete = (grades != MISSING).all(axis=1)
    # MR sets have only KL.
    counted = grades[complete] if complete.any() else grades
    found = {
        "knees": len(index),
        "subjects": index["subject"].nunique(),
        "knees_with_every_grade": int(complete.sum()),
        "knees_without_a_grade": int((grades == MISSING).all(axis=1).sum()),
    }
    for grade in GRADES:
        for value in range(NUM_CLASSES[grade]):
            found[f"{grade}_{value}"] = int((counted[grade] == value).sum())
    if "progression" in index:
        for value, name in enumerate(targets.of_kind(["progression"], Classes)[0].class_names):
            found[f"progression_{name}"] = int((index["progression"] == value).sum())
    return found


def compare(dataset: str, index: pd.DataFrame) -> pd.DataFrame:
    """Compare a prepared set with the paper that used it.

    Args:
        dataset: Name and config of the set, such as `oai_xray/oarsi`.
        index: `index.csv` of the set.

    Returns:
        Table with `quantity`, `paper`, `ours`, `source`; without rows if no paper counts this set.
    """
    printed = pd.read_csv(_FILE)
    printed = printed[printed["dataset"] == dataset]
    ours = quantities(index)
    return pd.DataFrame(
        {
            "quantity": printed["quantity"],
            "paper": printed["value"],
            "ours": printed["quantity"].map(ours),
            "source": printed["source"],
        }
    ).reset_index(drop=True)


def check_counted(dataset: str) -> None:
    """Check that some paper counts a set, before it is prepared.

    Raises:
        UserError: No paper counts it.
    """
    known = sorted(set(pd.read_csv(_FILE)["dataset"]))
    if dataset not in known:
        raise UserError(f"--expect=paper: no paper counts {dataset}; choose {', '.join(known)}")


def check(dataset: str, index: pd.DataFrame) -> None:
    """Check that a prepared set has the numbers of its paper.

    Raises:
        UserError: No paper counts this set, or a number differs.
    """
    check_counted(dataset)
    table = compare(dataset, index)
    differing = table[table["paper"] != table["ours"]]
    if len(differing):
        several = "; ".join(
            f"{row['quantity']}: {row['ours']:,} instead of {row['paper']:,}"
            for row in differing.head(4).to_dict("records")
        )
        raise UserError(
            f"{dataset}: {len(differing)} of {len(table)} numbers are not the paper's ({several}); "
            "see flow.csv and exclusions.csv for the excluded knees and their reasons"
        )
