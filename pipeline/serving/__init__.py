"""What was trained, ready to adapt and answer."""
