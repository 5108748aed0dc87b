"""The cost of a model in FLOPs, memory and time, the sizes it takes, and its parts."""
