"""Asynchronous gateway in front of avatar services."""

VERSION = "0.1.0"
