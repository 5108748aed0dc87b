"""Image sizes: mixtures, schedules, their cost, and the batch plan. Imports nothing of the project but `registry`."""
