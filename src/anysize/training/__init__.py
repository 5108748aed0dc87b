"""Training: the loop, the optimizer's regime, gradients, guards and checkpoints."""
