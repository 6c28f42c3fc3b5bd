"""Captions, regions and word-to-box truth: the precomp folder, its readers and writers, tokens and the vocabulary."""
