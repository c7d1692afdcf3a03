"""Studies of the transport domain, one module a paper."""
