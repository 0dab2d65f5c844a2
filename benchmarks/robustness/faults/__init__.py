"""Faults: every command that writes is killed, starved and disturbed; nothing is lost or half-published."""
