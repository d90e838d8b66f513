"""It has the name of a channel that is installed."""
