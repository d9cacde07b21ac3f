"""Media for a browser: previews, kept ones, and videos in parts."""
