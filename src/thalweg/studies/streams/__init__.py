"""Studies of the streams domain, one module a paper."""
