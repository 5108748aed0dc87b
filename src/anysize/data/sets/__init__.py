"""One file a data set; every module of this folder is imported by `anysize.data.catalog`."""
