"""Run folders made of the checkpoints that others published, of which nothing is executed."""
