#!/usr/bin/env bash
# The published Flask benchmark: `bash flask_benchmark.sh`. Here must be serving_server_model, serving_client_conf and
# test.data (`imdb-serving train`, `imdb-serving data --out test.data`). As published, every request forks curl; with
# HTTP_CLIENT=keep-alive clients keep their connections; PORT names another port. The service's PROFILE lines go to
# flask_profile.log.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
conf=serving_client_conf/serving_client_conf.prototxt
for needed in serving_server_model "$conf" test.data; do
    [ -e "$needed" ] || { echo "there is no $needed here; see the first lines of $0" >&2; exit 2; }
done
coproc SERVER { exec python "$here/imdb_flask.py" serving_server_model "${PORT:-9294}" 2> flask_profile.log; }
trap 'kill "$SERVER_PID" 2> /dev/null; wait "$SERVER_PID" 2> /dev/null || true' EXIT
read -r -t 120 ready <&"${SERVER[0]}" || { echo "the service did not start:" >&2; cat flask_profile.log >&2; exit 1; }
echo "$ready"
read -r _ _ endpoint _ <<< "$ready"
for clients in 1 2 4 8 12 16 20 24; do
    echo "client thread num: $clients"
    python "$here/flask_client_multithread.py" "$conf" test.data "$clients" --http-client "${HTTP_CLIENT:-curl}" \
        --timeout 60 --endpoint "$endpoint" > /dev/null
done
