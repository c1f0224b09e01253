"""The Flask service as published: `python imdb_flask.py serving_server_model` (and, if wanted, a port behind it)."""

import sys

from imdb_serving.cli import main

if __name__ == "__main__":
    model, port = sys.argv[1:2], sys.argv[2:3]
    main(["flask-dev", *model, *(["--port", *port] if port else [])])
