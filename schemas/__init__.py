"""The contracts: what the data is. Imports nothing of the other folders."""
