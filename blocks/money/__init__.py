"""What requests to providers may cost: the ledger of a catalog, what a process holds of it, and its journal."""
