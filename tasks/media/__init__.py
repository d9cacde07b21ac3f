"""Reading images and videos into requests."""
