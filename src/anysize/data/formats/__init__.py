"""Layouts and files that data sets come in."""
