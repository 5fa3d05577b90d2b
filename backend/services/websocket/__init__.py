"""WebSockets (RFC 6455) that pass through: frames, handshake, and the relay between two ends."""
