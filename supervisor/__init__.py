"""rankd: a supervisor for groups of ranked worker processes, run as a service."""

__version__ = "0.1.0"
