"""The lab: a server under load that reacts to a hand, in JupyterLab. Owns what is seen and touched while load runs.

It measures with `bench` and draws with `report`; nothing of those knows it. `Lab().show()` is all that a notebook says.
"""

from imdb_serving.lab.lab import Lab

__all__ = ["Lab"]
