"""Trained models on data: encoding, scores, retrieval and attention metrics, protocols, and the tables that report
them.
"""
