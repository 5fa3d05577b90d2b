"""The gateway seen by a real Chromium: pages of another origin, and the pages of its own."""
