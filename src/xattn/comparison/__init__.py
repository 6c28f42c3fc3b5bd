"""Comparisons: a grid of models, constraint sets and seeds, a record of each cell, and the table and pictures that the
records make.
"""
