"""What computes Online Normalization: PyTorch, C++, Triton."""
