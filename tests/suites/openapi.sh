#!/usr/bin/env bash
# Tests a running `orion-peer serve` with a login against samples/openapi.json, with the PyPI package `schemathesis`:
# requests that conform to the schema and requests that do not, with all of its checks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/suites/server.sh
source tests/suites/server.sh

bin=$(tests/suites/venv.sh schemathesis 4.32.5)
start_server --no-turn
timeout 900 "$bin/schemathesis" run samples/openapi.json --url "$base" --header 'Authorization: Bearer dev' \
    --checks all --exclude-checks use_after_free,ensure_resource_availability,object_level_authorization \
    --max-examples 200 --seed 1 --continue-on-failure --output-sanitize true --no-color
for name in orion_token_answers_total; do
    curl -sS "$base/metrics" | grep "^$name"
done
