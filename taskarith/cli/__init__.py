"""The command line: one module a command; each parses, imports late, calls and prints."""
