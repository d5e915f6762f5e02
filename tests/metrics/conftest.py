import functools

import pytest

from tests.factories import random_predictions


@pytest.fixture
def make_table():
    """Makes a random predictions table of two knees at two visits a subject."""
    return functools.partial(random_predictions, visits=(0, 24), skill=0.4)
