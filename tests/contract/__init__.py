"""The gateway as the existing frontend uses it, over real sockets; rules.md says what is held to."""
