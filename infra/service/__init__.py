"""Long-running processes: deployments, the worker, the bridge from storage notifications."""
