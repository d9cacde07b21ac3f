"""Review: the pages with hands, whose words become labels."""
