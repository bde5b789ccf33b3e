"""What agrees with other hosts: a store that all of them reach, and the members of a rendezvous on it."""
