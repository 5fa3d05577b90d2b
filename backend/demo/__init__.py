"""A demo avatar world: catalogue, instance manager and avatar instances on real loopback sockets."""
