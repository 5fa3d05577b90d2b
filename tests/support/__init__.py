"""What several tests share: gateways to talk to, and peers that do as they are told."""
