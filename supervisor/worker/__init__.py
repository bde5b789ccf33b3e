"""What a worker may import: its side of the contract with whoever supervises it. Standard library only.

Importing it costs next to nothing, and all of it does nothing in a program that nobody supervises.
"""

from supervisor.worker.recording import record

__all__ = ["record"]
