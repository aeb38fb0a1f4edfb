"""Masks: how they are chosen, stored, carried and run."""
