"""Models of transformers that were trained elsewhere, measured on a data folder as xattn's own runs are."""
