"""Training of supernets: paths and loss rules, two levels, trees of stores, block by block."""
