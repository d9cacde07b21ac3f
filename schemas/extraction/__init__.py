"""Fields of a user's own: the schema that asks for them, the values that come back, the columns that they become."""
