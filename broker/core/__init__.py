"""What the broker decides: pure values and functions, without I/O, clock, dice or event loop."""
