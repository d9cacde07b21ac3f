"""What surrounds a run: servers, deployments and the offline demo. Imported by the command line only."""
