"""How many knees of the studies the papers count, beside those of a prepared set.

`knees.csv` has the printed numbers: data set and config, quantity, value, source. The quantities
are `knees`, `subjects`, `knees_with_every_grade`, `knees_without_a_grade`, of the former those with
a grade (`kl_0`, `osfl_3`, ...), and `progression_none`, `_fast`, `_slow`.
"""

from pathlib import Path

import pandas as pd

from knee_jax.errors import UserError
from knee_jax.grades import GRADES, MISSING, NUM_CLASSES, OWN

_FILE = Path(__file__).with_suffix(".csv")


def quantities(index: pd.DataFrame) -> dict[str, int]:
    """Counts a prepared set.

    Args:
        index: its `index.csv`.
    """
    grades = index[list(GRADES)]
    whole = (grades != MISSING).all(axis=1)
    # MR sets tell of KL alone.
    counted = grades[whole] if whole.any() else grades
    found = {
        "knees": len(index),
        "subjects": index["subject"].nunique(),
        "knees_with_every_grade": int(whole.sum()),
        "knees_without_a_grade": int((grades == MISSING).all(axis=1).sum()),
    }
    for grade in GRADES:
        for value in range(NUM_CLASSES[grade]):
            found[f"{grade}_{value}"] = int((counted[grade] == value).sum())
    if "progression" in index:
        for value, name in enumerate(OWN["progression"]):
            found[f"progression_{name}"] = int((index["progression"] == value).sum())
    return found


def compare(dataset: str, index: pd.DataFrame) -> pd.DataFrame:
    """Sets a prepared set beside the paper that used it.

    Args:
        dataset: name and config, as `oai_xray/oarsi`.
        index: its `index.csv`.

    Returns:
        `quantity`, `paper`, `ours`, `source`; no row where no paper counts this set.
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
    """Checks that some paper counts a set, which can be known before it is prepared.

    Raises:
        UserError: none does.
    """
    known = sorted(set(pd.read_csv(_FILE)["dataset"]))
    if dataset not in known:
        raise UserError(f"--expect=paper: no paper counts {dataset}; choose {', '.join(known)}")


def check(dataset: str, index: pd.DataFrame) -> None:
    """Compares a prepared set with its paper.

    Raises:
        UserError: no paper counts this set, or a number differs.
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
            "the account says which knees were dropped and why, see flow.csv and quarantine.csv"
        )
