"""Real weights on real photographs and videos, through the whole program: `make test-real`."""
