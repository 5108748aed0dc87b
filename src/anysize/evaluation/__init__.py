"""Evaluation: metrics at one image size and at many, with and without calibration."""
