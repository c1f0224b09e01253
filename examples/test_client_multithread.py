"""Several client processes: `python test_client_multithread.py inference.conf test.data 4 > result`."""

import sys

from imdb_serving.cli import main

if __name__ == "__main__":
    main(["client-multi", *sys.argv[1:]])
