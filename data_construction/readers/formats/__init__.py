"""One file an annotation format; every module here is imported before the first index is read."""
