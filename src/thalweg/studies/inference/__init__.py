"""Studies of the inference domain, one module a paper."""
