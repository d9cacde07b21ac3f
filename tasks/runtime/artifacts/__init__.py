"""What a run leaves in Prefect: how it goes on, and a few of its objects."""
