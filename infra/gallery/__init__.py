"""The gallery: a catalog in a browser, served on loopback or written as a folder of files."""
