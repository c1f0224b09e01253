"""What is said of the texts that are sent."""

from __future__ import annotations

from pathlib import Path

import msgspec

from imdb_serving.config import at_home, project_root
from imdb_serving.errors import ConfigError
from imdb_serving.text import rows

OF_TEXTS = ("data", "text_column", "label_column")


class TextFields(msgspec.Struct, frozen=True, kw_only=True):
    """Packaged reviews, or the rows of the file `data`: CSV, JSON, Parquet, a text a line, or a published format.

    `text_column` and `label_column` are found by usual names where they are not said.
    """

    data: str = ""
    text_column: str = ""
    label_column: str = ""

    @property
    def data_file(self) -> Path:
        """Where the file is: relative to the project's folder, as a server's directory is."""
        return project_root() / at_home(self.data)

    @property
    def text_file(self) -> rows.TextFile | None:
        """The file of texts, or None for the packaged reviews; raises `DataError` for one that cannot be read."""
        if not self.data:
            return None
        columns = rows.Columns(self.text_column, self.label_column)
        return rows.TextFile(self.data_file, columns, rows.checksum(self.data_file))

    def check_texts(self) -> None:
        """Refuse a file that is not there, and columns of none."""
        if self.data and not self.data_file.is_file():
            raise ConfigError(f"data: there is no file {self.data_file}")
        for name in OF_TEXTS[1:]:
            if getattr(self, name) and not self.data:
                raise ConfigError(f"{name}: the packaged reviews have no columns; say the file: data")
