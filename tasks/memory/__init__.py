"""What a run may hold in memory, for each process that works on it."""
