"""It has the name of a channel in another folder."""
