"""How much a network would miss its weights and channels."""
