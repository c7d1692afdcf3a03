"""Studies: each module reruns the claims of one paper, in a folder per domain."""
