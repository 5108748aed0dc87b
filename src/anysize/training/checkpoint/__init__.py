"""Checkpoints: their files, and which of a run's they are."""
