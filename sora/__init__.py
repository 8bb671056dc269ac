"""A reproducible harness for SoRA (arXiv 2311.11696) and what it is compared with."""

__version__ = "0.2.0"
