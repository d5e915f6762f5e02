import dataclasses

import numpy as np
import pytest

from knee_jax.data import mesh
from knee_jax.data.subsets import SharedSource


@pytest.fixture(scope="module")
def source(knees):
    return SharedSource(knees, np.arange(8), mesh.make_mesh(), "resident")


def test_batches_are_shared_by_the_same_knees_and_labels_alone(source):
    assert source.same(dataclasses.replace(source, rows=np.arange(8)))
    assert not source.same(dataclasses.replace(source, rows=np.arange(1, 9)))
    assert not source.same(dataclasses.replace(source, rows=np.arange(9)))
    index = source.prepared.index.assign(kl=-1)
    hidden = dataclasses.replace(source.prepared, index=index)
    assert not source.same(dataclasses.replace(source, prepared=hidden))
