// Variations of libwebrtc's behavior, each as one row of a table: Chromium as the phone and as the Mac, and a native
// libwebrtc, with recv, send and bench. src/guide/interop.md contains the tables.
//
//   node interop.js             compares the results with the guide
//   node interop.js --table     writes them to the guide
//   ONLY=name,… node interop.js   runs only these rows; prefixes of names are enough

import { benchRows } from "./interop/bench.js";
import { channelRows } from "./interop/channels.js";
import { macRows } from "./interop/mac.js";
import { NATIVE, nativeRows } from "./interop/native.js";
import { pathRows } from "./interop/paths.js";
import { phoneRows } from "./interop/phone.js";
import { compare, write } from "./interop/table.js";
import { check, scenario, suite, version } from "./rig.js";

const chromiumRows = [...phoneRows, ...macRows, ...pathRows, ...channelRows, ...benchRows];
const rows = [...chromiumRows, ...nativeRows];
const only = process.env.ONLY?.split(",");
const chosen = rows.filter(({ name }) => !only || only.some((start) => name.startsWith(start)));

/** Runs one row and stores its result in `result`. */
async function run(row) {
  if (row.lacks) {
    console.log(`-- ${row.name}: not run, ${row.lacks}`);
    return false;
  }
  row.result ??= "works";
  return scenario(`${row.name}: ${row.does}`, row, async (other, peer) => {
    row.result = (await row.body(other, peer)) ?? row.result;
  });
}

await suite(async () => {
  const found = [];
  for (const row of chosen) if (await run(row)) found.push(row);
  if (process.argv.includes("--table")) {
    const whole = found.length === rows.length;
    check("every row was run and passed", whole, `${found.length} of ${rows.length}`);
    if (whole) await write([[`Chromium ${version}`, chromiumRows], [NATIVE, nativeRows]]);
    return;
  }
  const { missing, count } = await compare(found);
  check("the guide matches the results", missing.length === 0,
    missing.map((line) => `\n      ${line}`).join("") + (missing.length ? "\n      update it with tests/browser/run.sh --table" : ""));
  check("the guide has no other rows", count === rows.length, `${count} of ${rows.length}`);
});
