"""How long a test waits for another process before it gives up."""

LONGEST_WAIT = 900
"""Seconds. Only a process that hangs reaches it: on a machine that runs fifteen other jobs, a slow one is no fault."""
