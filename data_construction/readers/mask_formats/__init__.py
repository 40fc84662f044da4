"""One file a mask format; every module here is imported before the first masks are opened."""
