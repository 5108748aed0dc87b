"""Layouts and files that data sets come in. What is missing or not as expected in them is a `UserError`."""
