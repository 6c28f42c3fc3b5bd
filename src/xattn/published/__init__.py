"""Checkpoints that the authors of SCAN, BFAN, PFAN and SGRAF published, made into run folders; nothing in them is executed."""
