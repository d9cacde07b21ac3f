"""What surrounds the stages of a run: the publisher, shard sizing, Dask, cancellation."""
