"""TODO-package docstring."""
