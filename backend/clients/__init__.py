"""Clients' HTTP/1.1 connections inside Hypercorn."""
