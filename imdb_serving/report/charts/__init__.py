"""Charts for a page: small figures that answer a pointer, one a panel, so that a phone shows them as large as a desk.

The figures for papers are drawn beside them (`report/curves.py`); both draw with the same functions.
"""
