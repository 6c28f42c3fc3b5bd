"""Which processes were started with this one; a launcher that did not start what it was asked for is refused."""

import os

import pytest

from xattn.runtime import device
from xattn.runtime.errors import InputError
from xattn.runtime.process_group import ProcessGroup

HOW_TO_START = "start several with `torchrun --nproc_per_node N -m xattn train ...`"
LONELY = "processes that know nothing of each other, as WORLD_SIZE is not set"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ProcessGroup()),
        ({"WORLD_SIZE": "1", "RANK": "0"}, ProcessGroup()),
        ({"ACCELERATE_USE_CPU": "true"}, ProcessGroup()),
        (
            {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1"},
            "`accelerate launch` was asked for several processes and started one, as it does on a CPU; " + HOW_TO_START,
        ),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, f"mpirun started 4 {LONELY}; {HOW_TO_START}"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, f"srun started 2 {LONELY}; {HOW_TO_START}"),
        ({"WORLD_SIZE": "2"}, f"WORLD_SIZE is 2, but RANK is not set; {HOW_TO_START}"),
        ({"WORLD_SIZE": "two"}, "the environment variable WORLD_SIZE must be a whole number, but it is 'two'"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            f"RANK is 2, but WORLD_SIZE 2; {HOW_TO_START}",
        ),
    ],
)
def test_what_a_launcher_says(variables, expected, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "MASTER_", "OMPI_", "PMI_", "SLURM_")) or name in ("WORLD_SIZE", "RANK"):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    find = device._launched.__wrapped__  # as a process that has not asked yet
    if isinstance(expected, ProcessGroup):
        assert find().process_group == expected
        return
    with pytest.raises(InputError) as caught:
        find()
    assert str(caught.value) == expected
