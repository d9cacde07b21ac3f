"""The tables of the catalog, and the inventory: one pandera model each."""
