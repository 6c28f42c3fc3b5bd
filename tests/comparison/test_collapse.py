"""A run that has not learned is known from its record, of whichever version."""

import dataclasses

import pytest

from compared_records import made_record
from xattn.comparison.collapse import has_collapsed


def record_of(losses, **matching):
    fields = {"matching": {"loss": "hinge", "negatives": "hardest", "margin": 0.2, **matching}}
    return made_record(fields=fields, log={"epoch": list(range(1, 1 + len(losses))), "match": losses})


@pytest.mark.parametrize("state", [True, False])
def test_what_a_record_says_comes_before_its_loss(state):
    for losses in ([0.4], [0.1], []):
        assert has_collapsed(dataclasses.replace(record_of(losses), collapsed=state)) is state


@pytest.mark.parametrize(
    ("losses", "matching", "expected"),
    [
        ([0.4, 0.402], {}, True),  # that of equal scores is 0.2 for each side
        ([0.1, 0.381], {}, True),
        ([0.4, 0.379], {}, False),
        ([0.4, 0.1], {}, False),
        ([0.19], {"margin": 0.1}, True),
        ([0.189], {"margin": 0.1}, False),
        ([0.4], {"loss": "infonce"}, None),
        ([0.4], {"negatives": "all"}, None),
        ([None], {}, None),
        ([], {}, None),
    ],
)
def test_without_that_the_loss_of_the_last_epoch_tells(losses, matching, expected):
    assert has_collapsed(record_of(losses, **matching)) is expected


def test_of_the_model_of_somebody_else_it_is_not_known():
    record = dataclasses.replace(record_of([0.4]), configuration={"layers": 2})
    assert has_collapsed(record) is None
