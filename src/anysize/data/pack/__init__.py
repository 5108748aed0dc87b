"""Packs: the images of a data set in a few large files with an index, each at several sizes side by side."""
