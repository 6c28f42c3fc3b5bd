"""Losses: the contrastive constraints CCR and CCS on the attention, and the ranking losses on the scores."""
