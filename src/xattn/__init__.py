"""Cross-modal attention for image-text matching: train it, constrain it, measure it, see it."""

__version__ = "0.1.0"
