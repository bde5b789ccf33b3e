"""What decides. No await, no clock, no log, no I/O, no randomness: instants and seeds are arguments."""
