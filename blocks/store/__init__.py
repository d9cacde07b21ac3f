"""Storage: one facade over the kinds of storage, and what they list."""
