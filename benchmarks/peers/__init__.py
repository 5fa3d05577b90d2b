"""What the gateway is measured against; each is run as `python -m benchmarks.peers.NAME PORT UPSTREAM`."""

# RFC 9110, section 7.6.1: they end at each hop. The host names the upstream, and the client sets it.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
NOT_PASSED = HOP_BY_HOP | {"host"}
