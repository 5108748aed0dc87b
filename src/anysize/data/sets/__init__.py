"""One file a data set, or a pair of them; every module of this folder is imported by `anysize.data.catalog`."""
