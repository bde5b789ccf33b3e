"""Control of a running daemon: its socket, who may ask for what, and the client's side of it."""
