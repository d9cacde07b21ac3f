"""All commands, to be asked in the process of a test."""

from sightflow.infra.cli.app import command_line

app = command_line()
