"""Changes to a model after it was built: elastic branches, folding, recomputation."""
