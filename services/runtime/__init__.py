"""What every server shares; knows no service."""
