"""What the studies find out, computed from their tables: pure numbers and sentences."""
