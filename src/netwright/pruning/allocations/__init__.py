"""How much every layer and every axis keeps, of one budget."""
