"""The server: `python test_server.py serving_server_model` (and, as in later versions, a port behind it)."""

import sys

from imdb_serving.cli import main

if __name__ == "__main__":
    model, port = sys.argv[1:2], sys.argv[2:3]
    main(["serve", *model, *(["--port", *port] if port else [])])
