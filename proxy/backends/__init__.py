"""What answers requests: one package for each upstream."""
