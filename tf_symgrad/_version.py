"""The version, of the package and of what it builds."""

__version__ = "0.1.0"
