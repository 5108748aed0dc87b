"""Quantization of a model that stands: where it is quantized (placement), and its forward pass in rounded numbers."""
