"""What tells whoever listens: records, health, metrics."""
