"""One check a file; every file here is loaded. See ``registry.register_check``."""
