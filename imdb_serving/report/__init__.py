"""What is shown: executed notebooks, figures, tables."""
