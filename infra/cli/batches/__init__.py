"""The commands about batches: fetch their results, list, show and cancel them."""
