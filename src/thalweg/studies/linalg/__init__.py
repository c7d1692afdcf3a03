"""Studies of the linalg domain, one module a paper."""
