"""What requests cost: rates of tokens, budgets, what was reserved and spent."""
