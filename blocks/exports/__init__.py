"""Carrying a catalog, or its labels, into the formats that others read; and labels back out of these."""
