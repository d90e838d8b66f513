"""A folder without __init__.py."""
