"""The gallery with hands: what a person is asked, and what becomes of their word."""
