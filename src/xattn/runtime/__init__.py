"""What the machine provides: files written whole or not at all, processes, devices, progress, and the error that means
bad input.
"""
