"""What RFC 9113 and RFC 7541 demand of a server, case by case; `python -m tests.conformance URL` runs it."""
