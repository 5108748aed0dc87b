"""int8 after training and during it: calibration, rounding, which layers stay in float, and what it did by layer."""
