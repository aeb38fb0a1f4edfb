"""Search of a trained supernet: what is measured, the family that is found, files of it."""
