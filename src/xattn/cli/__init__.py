"""The command line: parsing only, one command a file (`prepare` holds one class a source).

Each command calls one function that a notebook could call; that of `demo` is in `demonstration.py`, since it uses all
other folders.
"""
