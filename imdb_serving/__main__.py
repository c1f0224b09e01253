"""`python -m imdb_serving` is the `imdb-serving` command."""

from imdb_serving.cli import main

if __name__ == "__main__":
    main()
