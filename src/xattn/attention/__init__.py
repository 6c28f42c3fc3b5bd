"""Attention in its Gram form, which needs no attended content: of aligned pairs (`attention`) and of all pairs in
blocks (`pairwise`).
"""
