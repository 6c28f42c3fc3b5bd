"""The commands, one a file: parsing only. Each calls one function that a notebook could call."""
