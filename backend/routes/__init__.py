"""The north side: one blueprint a noun; views read as sentences."""
