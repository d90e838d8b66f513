"""What the command line does; it talks to a running daemon through its admin interface."""
