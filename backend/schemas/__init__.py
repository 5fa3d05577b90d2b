"""What travels in JSON, forms and queries: one file a noun, checked on arrival, documented when served."""
