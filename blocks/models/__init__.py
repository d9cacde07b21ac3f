"""Vision models: a system on an engine."""
