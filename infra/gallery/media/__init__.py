"""Images and videos for a browser: previews, parts, and the answers that hold them."""
