"""The vendors' batch APIs: files of requests that are answered within a day, at half the price."""
