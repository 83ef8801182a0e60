#!/usr/bin/env bash
# Creates a Python virtual environment with one package, unless it exists, and prints the path of its commands.
#
#   bin=$(tests/suites/venv.sh kosoku 0.1.0)
#   bin=$(tests/suites/venv.sh kosoku 0.1.0 --constraint FILE)    passes further arguments to pip
#
# It is kept in the target directory; another version gets another environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

package=$1
version=$2
shift 2
dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")/suites/$package-$version

if [[ ! -e $dir/complete ]]; then
    rm -rf "$dir"
    if ! python3 -m venv "$dir" >&2; then
        printf 'suites: python3 cannot create a virtual environment: run scripts/setup.sh\n' >&2
        exit 1
    fi
    if ! "$dir/bin/pip" install --quiet --disable-pip-version-check "$package==$version" "$@" >&2; then
        printf 'suites: pip cannot install %s %s: check the connection to the package index\n' "$package" "$version" >&2
        exit 1
    fi
    touch "$dir/complete"
fi
printf '%s\n' "$dir/bin"
