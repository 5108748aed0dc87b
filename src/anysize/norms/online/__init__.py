"""Online Normalization: the method.

norm           the modules OnlineNorm1d, 2d and 3d, which keep the state
function       the same without a state of its own; options has its hyper-parameters
backends/      what computes it: PyTorch, C++, Triton; `choose` says which
recurrence     its two linear recurrences over the samples of a batch
compiled, recomputation   where it meets torch.compile and activation checkpointing
distributed    the state over several processes
"""
