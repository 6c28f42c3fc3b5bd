"""Training: the loop, its step and its loss, and what lets a run be interrupted and resumed; `xattn.runs.checkpoint` is
the file that it resumes from.
"""
