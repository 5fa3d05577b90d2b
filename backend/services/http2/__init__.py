"""HTTP/2 connections to upstreams, of the gateway's own (docs/decisions/0007-http2.md)."""
