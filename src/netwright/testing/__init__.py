"""Conformance suites: what every importance, quantiser or surgery must hold, for ours and for yours."""

from netwright.testing.importances import EquivariantImportanceConformance, ImportanceConformance
from netwright.testing.surgery import SurgerySuite

__all__ = ["EquivariantImportanceConformance", "ImportanceConformance", "SurgerySuite"]
