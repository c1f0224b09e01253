"""What serving is compared with: the smallest servers that do the same work, and their clients. No part of serving."""
