"""What a model costs: FLOPs, memory, time; the sizes it takes; what it is made of."""
