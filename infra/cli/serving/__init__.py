"""The commands that let Sightflow run by itself: serve, deploy, worker, bridge."""
