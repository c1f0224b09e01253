"""What serving is compared with: the smallest servers that do the same work, and their clients. No part of serving.

A server loads no more of this package than it needs: what weighs on it would count as its own.
"""

ENGINE, MODEL = "BASELINE_ENGINE", "BASELINE_MODEL"
"""Environment variables that tell a baseline's processes what to run."""
