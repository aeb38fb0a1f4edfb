"""Where the weights of sub-networks lie when one store is not enough, and which weights a choice uses."""
