"""What is shown: figures, tables, the verdict, pages, executed notebooks."""
