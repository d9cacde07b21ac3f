"""Reading what a model said into typed results."""
