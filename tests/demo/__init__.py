"""The demo world, seen from its sockets."""
