"""The command line: one small module a verb, heavy imports inside the verb."""
