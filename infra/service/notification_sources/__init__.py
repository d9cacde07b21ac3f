"""Where storage notifications come from: queues of the clouds, and a webhook that MinIO calls."""
