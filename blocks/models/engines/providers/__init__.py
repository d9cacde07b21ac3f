"""Models behind an HTTP API: retries, rate limits, and one file a protocol."""
