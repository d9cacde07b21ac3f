"""What is only read: single objects at addresses of the web."""
