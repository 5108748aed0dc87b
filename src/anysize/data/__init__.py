"""Data sets, decoding, augmentation and loading. Knows nothing of models."""
