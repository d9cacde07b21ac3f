"""Videos for models that see single images, and tracks from detections."""
