"""The command line: thin. Every command parses its options, calls the packages and prints."""

from netwright.cli.app import main

__all__ = ["main"]
