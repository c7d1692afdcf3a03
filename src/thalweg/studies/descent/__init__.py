"""Studies of the descent domain, one module a paper."""
