"""Measurements on several machines: server and clients where a placement says. Only `ray_nodes.py` knows Ray."""
