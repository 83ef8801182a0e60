#!/usr/bin/env python3
"""Compares the report of Autobahn's cases with the list of expected failures.

    autobahn.py REPORT/index.json LIST

A case passes with OK, NON-STRICT (permitted by a less strict reading) or INFORMATIONAL, and its close with OK or
INFORMATIONAL. Lines of LIST are `case code reason`: the server closes the connection with that code.
"""

import collections
import json
import sys


def passed(entry):
    return entry["behavior"] in ("OK", "NON-STRICT", "INFORMATIONAL") and entry["behaviorClose"] in (
        "OK",
        "INFORMATIONAL",
    )


def main():
    with open(sys.argv[1]) as report:
        (cases,) = json.load(report).values()
    excused = {}
    with open(sys.argv[2]) as listed:
        for line in listed:
            if line.strip() and not line.startswith("#"):
                case, code, _reason = line.split(maxsplit=2)
                excused[case] = int(code)
    table = collections.defaultdict(collections.Counter)
    wrong = []
    for case, entry in cases.items():
        verdict = entry["behavior"] if passed(entry) else "FAILED"
        if verdict == "FAILED" and excused.get(case) == entry["remoteCloseCode"]:
            verdict = f"CLOSED {excused[case]} as listed"
        elif verdict == "FAILED":
            wrong.append(f"{case} failed: {entry['behavior']}, closed {entry['behaviorClose']}")
        table[case.split(".")[0]][verdict] += 1
    for case in excused:
        if case not in cases or passed(cases[case]):
            wrong.append(f"{case} is listed as failing, but passes: remove it from the list")
    for part, verdicts in sorted(table.items(), key=lambda row: int(row[0])):
        print(f"{part:>3}.*  " + ", ".join(f"{count} {name}" for name, count in sorted(verdicts.items())))
    for line in wrong:
        print(line)
    good = sum(sum(row.values()) for row in table.values()) - len(wrong)
    print(f"{len(cases)} cases, {len(wrong)} wrong")
    if len(cases) < 290 or good < 1:
        sys.exit("autobahn: cases are missing: 301 are expected")
    sys.exit(bool(wrong))


main()
