"""Asynchronous gateway in front of avatar services."""
