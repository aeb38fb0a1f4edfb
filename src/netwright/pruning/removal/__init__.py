"""Channels and layers taken out, and how those that stay make up for them."""
