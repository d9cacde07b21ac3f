"""What surrounds a run: servers, deployments and the offline demo."""
