"""One file a system: its rating, prompts, reply parsing and coordinates."""
