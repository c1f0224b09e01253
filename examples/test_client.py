"""One client, one sample a request: `cat test.data | python test_client.py inference.conf > result`."""

import sys

from imdb_serving.cli import main

if __name__ == "__main__":
    main(["client", *sys.argv[1:]])
