"""Conformance suites: what every importance, quantiser or surgery must hold, for ours and for yours."""

__all__: list[str] = []
