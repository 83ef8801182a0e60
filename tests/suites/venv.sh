#!/usr/bin/env bash
# Makes a Python virtual environment with one package, once, and prints where its commands are.
#
#   bin=$(tests/suites/venv.sh kosoku 0.1.0)
#   bin=$(tests/suites/venv.sh kosoku 0.1.0 --constraint FILE)    more words for pip
#
# Kept beside the build; another version gets another environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

package=$1
version=$2
shift 2
dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")/suites/$package-$version

if [[ ! -e $dir/complete ]]; then
    rm -rf "$dir"
    if ! python3 -m venv "$dir" >&2; then
        printf 'suites: python3 cannot make a virtual environment: run scripts/setup.sh\n' >&2
        exit 1
    fi
    if ! "$dir/bin/pip" install --quiet --disable-pip-version-check "$package==$version" "$@" >&2; then
        printf 'suites: pip cannot install %s %s: is the package index in reach?\n' "$package" "$version" >&2
        exit 1
    fi
    touch "$dir/complete"
fi
printf '%s\n' "$dir/bin"
