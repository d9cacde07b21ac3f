"""The web: what is read there and not written."""
