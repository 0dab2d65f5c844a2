"""What `make bench` measures: taskarith's engine beside a plain copy, torch and mergekit."""
