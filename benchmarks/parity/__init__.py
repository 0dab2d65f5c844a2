"""The numbers of `eval` beside those of the tools that they are named after."""
