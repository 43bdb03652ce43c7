"""For operators: checks of a deployment, its state, and what became of a user's messages."""
