"""The verb `unlearn`: from a text to an edited model, and what shows that it is forgotten."""
