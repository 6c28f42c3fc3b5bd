"""Retrieval in a data folder: the images that fit a sentence best (`query`, in public `xattn.search`)."""
