"""The flows that users run, and the command line that runs them."""
