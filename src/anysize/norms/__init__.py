"""Normalization: calibration of running statistics for an image size."""
