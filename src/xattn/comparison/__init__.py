"""Comparisons: a grid of models, constraint sets and seeds, a record of each trial, and the table and pictures that the
records make.
"""
