"""Labels, tables and settings shared by the tests of tasks."""

import jax.numpy as jnp
import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.config import fields
from knee_jax.config.schema import Data
from knee_jax.targets.grades import GRADES, MISSING


def labels_of(grades):
    """Return labels by target, from grades int [batch, 7], traced or not."""
    kl = grades[:, 0]
    early = jnp.where(kl == 0, 0, jnp.where(kl == 2, 1, MISSING))
    return {name: grades[:, i] for i, name in enumerate(GRADES)} | {"kl0_vs_kl2": early}


def loss(task, outputs, batch, epoch, stats=None):
    """Return the task's loss of a batch with `grades` and `mask`."""
    return task.loss(outputs, labels_of(batch["grades"]), batch["mask"], epoch, stats or {})


def check(settings, names, data=None, **changes):
    """Make the settings of a config, and check them against targets and data."""
    made = fields.build(settings, changes, "config.task")
    made.check(targets.get_all(names), fields.build(Data, data or {}, "config.data"))
    return made


def index_of(**columns):
    """Make an index with these columns, one knee per subject; other grades are 0."""
    number = len(next(iter(columns.values())))
    identity = {"side": "L", "visit": 0, "cohort": "oai", "site": "A"}
    identity["subject"] = [f"{i:07d}" for i in range(number)]
    return pd.DataFrame(identity | dict.fromkeys(GRADES, 0) | columns)


def table_of(task, probabilities, **columns):
    """Make the predictions table of all knees of such an index."""
    index = index_of(**columns)
    return task.table(index, np.arange(len(index)), {task.target: np.asarray(probabilities)})
