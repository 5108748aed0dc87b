"""What is done to a model that stands: elastic branches, folding, recomputation."""
