"""What a network computes on examples: the examples, moments of what its operators read, batch norm."""
