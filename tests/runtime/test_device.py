"""Which processes were started with this one; a launcher that did not start what it was asked for is refused."""

import subprocess
import sys

import pytest

from waiting import LONGEST_WAIT

HOW_TO_START = "start several with `torchrun --nproc_per_node N -m xattn train ...`"
PROGRAM = (
    "from xattn.runtime.device import launched_process_group\n"
    "from xattn.runtime.errors import InputError\n"
    "try:\n    print(launched_process_group())\n"
    "except InputError as error:\n    print(error)\n"
)
LONELY = "processes that know nothing of each other, as WORLD_SIZE is not set"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "ProcessGroup(world_size=1, rank=0)"),
        ({"WORLD_SIZE": "1", "RANK": "0"}, "ProcessGroup(world_size=1, rank=0)"),
        ({"ACCELERATE_USE_CPU": "true"}, "ProcessGroup(world_size=1, rank=0)"),
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
def test_what_a_launcher_says(variables, expected):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=variables,
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT,
        check=True,
    )
    assert done.stdout.strip() == expected
