"""Families of chat models and their templates."""
