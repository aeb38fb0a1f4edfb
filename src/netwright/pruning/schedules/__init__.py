"""When a training prunes, and what it does to its masks besides."""
