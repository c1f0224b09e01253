"""Several samples a request: `cat test.data | python test_client_batch.py inference.conf 4 > result`."""

import sys

from imdb_serving.cli import main

if __name__ == "__main__":
    main(["client-batch", *sys.argv[1:]])
