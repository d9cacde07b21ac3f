"""The stages of a run as typed Prefect tasks, one verb a file. Imports blocks and schemas."""
