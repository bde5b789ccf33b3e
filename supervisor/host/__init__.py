"""What acts on this machine: processes, pipes, sockets, signals."""
