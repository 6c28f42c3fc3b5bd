"""Comparisons: a grid of models, constraint sets and seeds, a record of each trial, and and the tables and charts
made from the records.
"""
