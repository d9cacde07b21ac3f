"""What goes to a vendor's batch API and comes back from it: recorded, sent, polled, read, published, removed."""
