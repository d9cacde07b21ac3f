"""What a run will cost, from what is known before it, and what it was charged."""
