"""What surrounds the stages of a run: the publisher, loaded models, shard sizing, Dask, cancellation, metrics."""
