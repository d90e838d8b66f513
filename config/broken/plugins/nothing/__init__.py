"""A package that offers no channel."""
