"""The tables of the catalog, and the inventory: one pandera model each, which is the only list of its columns."""
