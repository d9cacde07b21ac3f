"""Finding objects among millions of rows: filters, and the index that answers them."""
