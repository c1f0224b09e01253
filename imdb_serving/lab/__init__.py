"""The lab: a server under live load with controls, in JupyterLab. `Lab().show()` is all that a notebook says.

>>> from imdb_serving.lab import Lab
>>> lab = Lab(engine="none", clients=2)
>>> lab.show()  # doctest: +SKIP

It measures with `measurement` and draws with `report`; neither knows it.
"""

from imdb_serving.lab.session import LabSession

__all__ = ["Lab"]


class Lab(LabSession):
    """A server under load that follows the controls of a page.

    Takes the first `Settings` by name, and `most_clients`, the number of client processes that stand ready. Nothing
    runs before `start` or `show`; nothing is left running after `stop`, the kernel's end, or the page's.
    """

    def show(self, start: bool = True) -> None:
        """Show the controls and the live panels below the cell, and start the server."""
        from IPython.display import display  # noqa: PLC0415 - a notebook has loaded it already

        from imdb_serving.lab.controls import Controls  # noqa: PLC0415 - it loads the widgets and matplotlib

        display(Controls(self).box)  # type: ignore[no-untyped-call]
        if start:
            self.start()
