"""Commands that carry catalogs and labels to other tools and back."""
