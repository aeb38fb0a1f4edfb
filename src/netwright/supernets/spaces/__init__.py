"""Search spaces of the literature as supernets."""
