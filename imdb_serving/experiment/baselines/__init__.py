"""What serving is compared with: the smallest servers that do the same work, and their clients. No part of serving."""

ENGINE, MODEL = "BASELINE_ENGINE", "BASELINE_MODEL"
"""Environment variables that tell a baseline's processes what to run."""
