"""Look at what is on disk: inspect, diff, verify."""
