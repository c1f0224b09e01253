"""Several HTTP clients, as published.

`python flask_client_multithread.py serving_client_conf/serving_client_conf.prototxt test.data 4`
"""

import sys

from imdb_serving.cli import main

if __name__ == "__main__":
    main(["flask-client", *sys.argv[1:]])
