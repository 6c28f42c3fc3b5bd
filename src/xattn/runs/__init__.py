"""What a training run is made from and leaves behind: configuration, presets, run folders, checkpoints, and how they
are listed and shared.
"""
