"""Published systems that are more than a choice of importance, allocation and schedule."""
