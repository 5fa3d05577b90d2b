"""How fast the gateway is beside its peers: `table`, `concurrency` and `soak` are the three commands."""
