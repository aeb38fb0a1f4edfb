"""Hugging Face architectures."""


def architectures():
    return iter(())
