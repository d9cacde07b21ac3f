"""What the tokens of a model id cost: from `genai-prices`, and from data of our own for what it lacks."""
