"""What stores with buckets have in common, whichever protocol they speak."""
