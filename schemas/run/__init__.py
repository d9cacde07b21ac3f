"""What one run is: its selection, plan, timing and report."""
