// orion-peer with apps on other WebRTC stacks, over loopback: calls that should survive, or end.
//
//   node main.js
//   node main.js --table                        writes table.md
//   node main.js --pace                         see pace.js
//   ONLY=aiortc,werift/killed-8s node main.js   only these stacks and cases

import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { Call } from "./call.js";
import { LANES as SURVIVING } from "./cases.js";
import { LANES as HOSTILE } from "./hostile.js";
import { pace } from "./pace.js";
import { killAll } from "./process.js";
import { STACKS } from "./stacks.js";
import { LANES as TABLE, judge, lines, missing, write } from "./table.js";

const { ORION_PEER } = process.env;
const writing = process.argv.includes("--table");

const LANES = writing ? TABLE : [...SURVIVING, ...TABLE, ...HOSTILE];

/** Number of concurrent lanes: with more, two cores are too slow for the timed cases. */
const AT_ONCE = 10;

const only = process.env.ONLY?.split(",");
const able = (stack, { hostile, table, needs }) => (table ? (needs ? stack[needs] : !stack.refuses) : stack[hostile ? "hostile" : "survives"]);
const chosen = (stack, name) => !only || only.some((one) => [stack.name, `${stack.name}/${name}`].includes(one));

const scratch = mkdtempSync(path.join(tmpdir(), "orion-foreign-"));
// A killed browser leaves its profile behind.
process.env.TMPDIR = scratch;

/** A keyframe of about `bytes`, as sent by the phone. */
function accessUnit(name, size, bytes) {
  const out = path.join(scratch, name);
  execFileSync(ORION_PEER, [
    "demo", "--source", `pattern:${size}`, "--interval", "0.2s", "--count", "1", "--format", "h264", "--max-bytes", bytes, "--out", out,
  ], { stdio: ["ignore", "ignore", "pipe"] });
  return path.join(out, readdirSync(out).find((file) => file.endsWith(".h264")));
}

/** Runs one case and returns its row. */
async function run(stack, one, given) {
  const { name, does, run: body } = one;
  const call = new Call(stack, name);
  let row;
  try {
    await call.serve();
    row = await body(call, given);
  } catch (error) {
    row = { faults: [error.message] };
  }
  await call.end();
  if (one.table) row = judge(stack, one, { as: one.as, row: one.row, table: true, ...row });
  const ok = row.faults.length === 0;
  console.log(`${ok ? "pass" : "FAIL"}  ${stack.name}: ${does}${ok ? "" : `: ${row.faults.join("; ")}`}`);
  if (!ok) {
    const relevant = call.text.filter((line) => !/"event":"(keyframe|decoded|announced)"|"kind":"|sent keyframe/.test(line));
    console.log(`${relevant.slice(-60).map((line) => `      ${line}`).join("")}      full log: ${call.log}`);
  }
  return { stack: stack.name, name, ok, ...row };
}

const figure = (value) => (Number.isFinite(value) ? String(Math.round(value * 10) / 10) : "–");

function table(rows) {
  const heads = ["stack", "case", "sent", "received", "longest gap, s", "offers", "ended after, s", "result"];
  const cells = rows.map((row) => [
    row.stack, row.name, figure(row.sent), figure(row.received), figure(row.gap), figure(row.offers), figure(row.after),
    row.ok ? "pass" : `FAIL: ${row.faults.join("; ")}`,
  ]);
  const widths = heads.map((head, at) => Math.max(head.length, ...(at < heads.length - 1 ? cells.map((row) => row[at].length) : [0])));
  for (const row of [heads, ...cells]) console.log(row.map((cell, at) => cell.padEnd(widths[at])).join("  ").trimEnd());
}

process.on("exit", () => {
  killAll();
  rmSync(scratch, { recursive: true, force: true, maxRetries: 5 });
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

if (process.argv.includes("--pace")) {
  await pace(STACKS.filter((stack) => !stack.refuses && (!only || only.includes(stack.name))));
  process.exit();
}
const small = accessUnit("small", "320x240", "20KB");
const large = accessUnit("large", "1280x720", "100KB");
const given = { folder: (call) => path.join(scratch, `${call.stack.name}-${call.name}`) };
const rows = [];
const queue = LANES.flatMap((lane) => STACKS.map((stack) => async () => {
  for (const one of lane) {
    if (able(stack, one) && chosen(stack, one.name)) rows.push(await run(stack, one, { unit: one.table ? large : small, ...given }));
  }
}));
await Promise.all(Array.from({ length: AT_ONCE }, async () => {
  while (queue.length > 0) await queue.shift()();
}));

const order = LANES.flat().map(({ name }) => name);
const stacks = STACKS.map(({ name }) => name);
rows.sort((a, b) => stacks.indexOf(a.stack) - stacks.indexOf(b.stack) || order.indexOf(a.name) - order.indexOf(b.name));
console.log(`\n${STACKS.map(({ name, version }) => `${name} (${version})`).join(", ")}`);
const [written, others] = [rows.filter((row) => row.table), rows.filter((row) => !row.table)];
table(others);
for (const text of lines(written)) console.log(text);
const failed = rows.filter(({ ok }) => !ok).length;
if (writing && failed === 0 && !only) write(written, STACKS);
const unknown = writing ? [] : missing(written);
for (const row of unknown) console.log(`table.md differs, update it with tests/foreign/run.sh --table: ${row}`);
console.log(`${rows.length - failed} passed, ${failed} failed`);
process.exitCode = failed === 0 && unknown.length === 0 && rows.length > 0 ? 0 : 1;
