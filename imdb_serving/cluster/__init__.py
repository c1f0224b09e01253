"""Cells on the nodes of a Ray cluster. Only `ray_nodes.py` knows Ray."""
