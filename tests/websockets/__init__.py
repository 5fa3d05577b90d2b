"""RFC 6455 through a mount: what a full conformance run asks, compression aside."""
