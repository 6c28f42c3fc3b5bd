"""The command line: parsing only, one command a file. Each calls one function that a notebook could call."""
