"""Metrics: how well attention finds the right place (`attention`), and images and captions each other (`retrieval`)."""
