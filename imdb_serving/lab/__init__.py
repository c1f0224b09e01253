"""The lab: a server under live load with controls, in JupyterLab. `Lab().show()` is all that a notebook says.

It measures with `measurement` and draws with `report`; neither knows it.
"""

from imdb_serving.lab.lab import Lab

__all__ = ["Lab"]
